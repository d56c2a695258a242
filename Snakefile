# The workflow itself is in workflow/Snakefile; this file makes `snakemake` at the root find it.
include: "workflow/Snakefile"


workflow.default_target = "all"
