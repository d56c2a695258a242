"""Tasks learned one after the other: methods, their memories, and the runs of a sequence."""
