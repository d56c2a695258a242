# Labelled tiles to vectors: once a task, for all its models.
rule embed_tiles:
    input:
        tables=PLAN.tables,
        slides=PLAN.indexes(PLAN.layout.slides) if STUDY.has_slides else [],
        encoder=PLAN.encoder[:2],
    output:
        f"{HOME}/tiles/{{tile_task}}/index.parquet",
    log:
        f"{LOGS}/embed_tiles/{{tile_task}}.log",
    benchmark:
        f"{LOGS}/benchmarks/embed_tiles/{{tile_task}}.tsv"
    retries: 2
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(8000),
        gpu=0 if STUDY.features.encoder == "builtin" else 1,
    params:
        study=PLAN.file,
        settings=lambda wildcards: PLAN.labelled_settings(wildcards.tile_task),
        code=PLAN.code("embed_tiles"),
    shell:
        "histostudy embed-tiles --study {params.study} --task {wildcards.tile_task} > {log} 2>&1"
