# The network of the tissue method unet: drawn thumbnails to weights, card and measured table.
rule train_tissue:
    output:
        PLAN.trained_tissue,
    log:
        f"{LOGS}/train_tissue.log",
    benchmark:
        f"{LOGS}/benchmarks/train_tissue.tsv"
    retries: 1
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(4000),
    params:
        study=PLAN.file,
        settings=PLAN.settings("train_tissue", "seed"),
        real=PLAN.files(STUDY.train_tissue.real),
        code=PLAN.code("train_tissue"),
    shell:
        "histostudy train-tissue --study {params.study} > {log} 2>&1"
