# Slides to features: the cohort's work, a shard of slides a job.
if STUDY.cohort.simulate is not None:

    rule simulate:
        output:
            slides=f"{FOLDERS['source']}/slides.csv",
            patients=f"{FOLDERS['source']}/patients.csv",
            expression=f"{FOLDERS['source']}/expression.csv",
            truth=f"{FOLDERS['source']}/truth.json",
            omics=[f"{FOLDERS['source']}/{name}.csv" for name in ("rna", "groups")] if DRAWN_FEATURES else [],
            tiles=f"{FOLDERS['source']}/tiles.csv" if STUDY.cohort.simulate.labelled_tiles else [],
        log:
            f"{LOGS}/simulate.log",
        benchmark:
            f"{LOGS}/benchmarks/simulate.tsv"
        conda:
            ENVIRONMENT
        threads: 8
        resources:
            mem_mb=memory(4000),
        params:
            study=PLAN.file,
            settings=PLAN.simulation(),
            code=PLAN.code("simulate"),
        shell:
            "histostudy simulate --study {params.study} --workers {threads} > {log} 2>&1"


if not PRECOMPUTED:

    rule slides:
        input:
            table=ancient(PLAN.layout.slides_csv),
        output:
            f"{FOLDERS['slides']}/shard-{{shard}}.parquet",
        log:
            f"{LOGS}/slides/{{shard}}.log",
        benchmark:
            f"{LOGS}/benchmarks/slides/{{shard}}.tsv"
        retries: 2
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(2000),
        params:
            study=PLAN.file,
            shards=PLAN.n_shards,
            members=members,
            code=PLAN.code("slides"),
        shell:
            "histostudy slides --study {params.study} --shard {wildcards.shard}/{params.shards} > {log} 2>&1"

    rule tissue:
        input:
            slides=f"{FOLDERS['slides']}/shard-{{shard}}.parquet",
        output:
            f"{FOLDERS['tissue']}/shard-{{shard}}.parquet",
        log:
            f"{LOGS}/tissue/{{shard}}.log",
        benchmark:
            f"{LOGS}/benchmarks/tissue/{{shard}}.tsv"
        retries: 2
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(4000),
        params:
            study=PLAN.file,
            shards=PLAN.n_shards,
            settings=PLAN.settings("tissue"),
            weights=PLAN.tissue_weights(),
            code=PLAN.code("tissue"),
        shell:
            "histostudy tissue --study {params.study} --shard {wildcards.shard}/{params.shards} > {log} 2>&1"

    rule tiles:
        input:
            slides=f"{FOLDERS['slides']}/shard-{{shard}}.parquet",
            tissue=f"{FOLDERS['tissue']}/shard-{{shard}}.parquet",
        output:
            f"{FOLDERS['tiles']}/shard-{{shard}}.parquet",
        log:
            f"{LOGS}/tiles/{{shard}}.log",
        benchmark:
            f"{LOGS}/benchmarks/tiles/{{shard}}.tsv"
        retries: 2
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(2000),
        params:
            study=PLAN.file,
            shards=PLAN.n_shards,
            settings=PLAN.settings("tiles", "tissue"),
            code=PLAN.code("tiles"),
        shell:
            "histostudy tiles --study {params.study} --shard {wildcards.shard}/{params.shards} > {log} 2>&1"

    if STUDY.pretrain is not None:

        rule pretrain:
            input:
                slides=[] if STUDY.pretrain.images else PLAN.indexes(PLAN.layout.slides),
                tiles=[] if STUDY.pretrain.images else PLAN.indexes(PLAN.layout.tiles),
            output:
                PLAN.encoder,
            log:
                f"{LOGS}/pretrain.log",
            benchmark:
                f"{LOGS}/benchmarks/pretrain.tsv"
            retries: 2
            conda:
                ENVIRONMENT
            threads: STUDY.pretrain.threads
            resources:
                mem_mb=memory(16000),
                gpu=0 if STUDY.pretrain.device == "cpu" else STUDY.pretrain.processes,
            params:
                study=PLAN.file,
                shards=PLAN.n_shards,
                settings=PLAN.settings("pretrain", "tiles", "seed"),
                chosen=PLAN.files(
                    STUDY.pretrain.images,
                    STUDY.pretrain.teacher_checkpoint,
                    STUDY.pretrain.stain.target if STUDY.pretrain.stain else None,
                ),
                patients=PLAN.files(STUDY.cohort.patients if STUDY.pretrain.where else None),
                code=PLAN.code("pretrain"),
            shell:
                "histostudy pretrain --study {params.study} --shards {params.shards} > {log} 2>&1"

    rule embed:
        input:
            slides=f"{FOLDERS['slides']}/shard-{{shard}}.parquet",
            tiles=f"{FOLDERS['tiles']}/shard-{{shard}}.parquet",
            encoder=PLAN.encoder[:2],
        output:
            f"{FOLDERS['features']}/shard-{{shard}}.parquet",
        log:
            f"{LOGS}/embed/{{shard}}.log",
        benchmark:
            f"{LOGS}/benchmarks/embed/{{shard}}.tsv"
        retries: 2
        conda:
            ENVIRONMENT
        # an encoder that takes its time has tiles read ahead for it; the bytes are the same
        threads: 1 if STUDY.features.encoder == "builtin" else 4
        resources:
            mem_mb=memory(8000),
            gpu=0 if STUDY.features.encoder == "builtin" else 1,
        params:
            study=PLAN.file,
            shards=PLAN.n_shards,
            settings=PLAN.settings("features", "tiles"),
            weights=PLAN.encoder_weights(),
            code=PLAN.code("embed"),
        shell:
            "histostudy embed --study {params.study} --shard {wildcards.shard}/{params.shards} "
            "--threads {threads} > {log} 2>&1"

    if "stain" in STUDY.audit:

        rule stain:
            input:
                slides=f"{FOLDERS['slides']}/shard-{{shard}}.parquet",
                tiles=f"{FOLDERS['tiles']}/shard-{{shard}}.parquet",
            output:
                f"{FOLDERS['stain']}/shard-{{shard}}.parquet",
            log:
                f"{LOGS}/stain/{{shard}}.log",
            benchmark:
                f"{LOGS}/benchmarks/stain/{{shard}}.tsv"
            retries: 2
            conda:
                ENVIRONMENT
            threads: 1
            resources:
                mem_mb=memory(2000),
            params:
                study=PLAN.file,
                shards=PLAN.n_shards,
                settings=PLAN.settings("tiles"),
                code=PLAN.code("stain"),
            shell:
                "histostudy stain --study {params.study} --shard {wildcards.shard}/{params.shards} > {log} 2>&1"

    if PLAN.pairs:

        rule pairs:
            input:
                slides=f"{FOLDERS['slides']}/shard-{{shard}}.parquet",
                tiles=f"{FOLDERS['tiles']}/shard-{{shard}}.parquet",
                encoder=PLAN.encoder[:2],
            output:
                f"{FOLDERS['pairs']}/{{pairs}}/shard-{{shard}}.parquet",
            log:
                f"{LOGS}/pairs/{{pairs}}/{{shard}}.log",
            benchmark:
                f"{LOGS}/benchmarks/pairs/{{pairs}}/{{shard}}.tsv"
            retries: 2
            conda:
                ENVIRONMENT
            threads: 1
            resources:
                mem_mb=memory(4000),
                gpu=0 if STUDY.features.encoder == "builtin" else 1,
            params:
                study=PLAN.file,
                shards=PLAN.n_shards,
                settings=PLAN.settings("features", "tiles"),
                weights=PLAN.encoder_weights(),
                code=PLAN.code("pairs"),
            shell:
                "histostudy pairs --study {params.study} --set {wildcards.pairs} "
                "--shard {wildcards.shard}/{params.shards} > {log} 2>&1"


rule slides_table:
    input:
        tables=PLAN.tables,
        slides=[] if PRECOMPUTED else PLAN.indexes(PLAN.layout.slides),
    output:
        PLAN.layout.slides_table,
    log:
        f"{LOGS}/slides_table.log",
    benchmark:
        f"{LOGS}/benchmarks/slides_table.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(2000),
    params:
        study=PLAN.file,
        shards=PLAN.n_shards,
        code=PLAN.code("index"),
    shell:
        "histostudy index slides --study {params.study} --shards {params.shards} > {log} 2>&1"


rule index:
    input:
        tables=PLAN.tables,
        slides=[] if PRECOMPUTED else PLAN.indexes(PLAN.layout.slides),
        tissue=[] if PRECOMPUTED else PLAN.indexes(PLAN.layout.tissue),
        tiles=[] if PRECOMPUTED or not STUDY.uses_bags else PLAN.indexes(PLAN.layout.tiles),
        features=[] if PRECOMPUTED or not STUDY.uses_bags else PLAN.indexes(PLAN.layout.features),
    output:
        PLAN.layout.features_table,
    log:
        f"{LOGS}/index.log",
    benchmark:
        f"{LOGS}/benchmarks/index.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(4000),
    params:
        study=PLAN.file,
        shards=PLAN.n_shards,
        settings=PLAN.settings("cohort", "features"),
        files=PLAN.given_features(),
        code=PLAN.code("index"),
    shell:
        "histostudy index features --study {params.study} --shards {params.shards} > {log} 2>&1"


rule features:
    input:
        cohort_products(),
