"""What each verb of the command line does with a study: reads its inputs, calls a stage, writes its outputs."""
