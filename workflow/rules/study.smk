# Features to the report: the study's work.
rule cohort:
    input:
        tables=PLAN.tables,
        index=INDEX,
    output:
        flow=f"{HOME}/cohort_flow.json",
        table_one=f"{HOME}/table_one.csv",
        modalities=[f"{HOME}/tables/modalities.csv"] if STUDY.modalities else [],
    log:
        f"{LOGS}/cohort.log",
    benchmark:
        f"{LOGS}/benchmarks/cohort.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(2000),
    params:
        study=PLAN.file,
        settings=PLAN.settings("cohort", "tasks", "modalities"),
        code=PLAN.code("cohort"),
    shell:
        "histostudy cohort summary --study {params.study} > {log} 2>&1"


rule split:
    input:
        tables=PLAN.tables,
        index=INDEX,
    output:
        splits=f"{HOME}/splits.csv",
        leakage=f"{HOME}/leakage.json",
    log:
        f"{LOGS}/split.log",
    benchmark:
        f"{LOGS}/benchmarks/split.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(2000),
    params:
        study=PLAN.file,
        settings=PLAN.settings("splits", "seed"),
        outcomes=PLAN.outcomes(),
        files=PLAN.files(STUDY.splits.published),
        code=PLAN.code("split"),
    shell:
        "histostudy split --study {params.study} > {log} 2>&1"


if BAGS:

    rule bags:
        input:
            tables=PLAN.tables,
            index=INDEX,
        output:
            BAGS,
        log:
            f"{LOGS}/bags.log",
        benchmark:
            f"{LOGS}/benchmarks/bags.tsv"
        retries: 1
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(4000),
        params:
            study=PLAN.file,
            settings=PLAN.settings("cohort", "features"),
            code=PLAN.code("bags"),
        shell:
            "histostudy bags --study {params.study} > {log} 2>&1"


rule train:
    input:
        tables=PLAN.tables,
        index=INDEX,
        bags=bags_of_task,
        splits=f"{HOME}/splits.csv",
        others=model_inputs,
    output:
        f"{HOME}/runs/{{task}}/{{model}}/runs.parquet",
    log:
        f"{LOGS}/train/{{task}}/{{model}}.log",
    benchmark:
        f"{LOGS}/benchmarks/train/{{task}}/{{model}}.tsv"
    retries: 1
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(8000),
        gpu=gpus_of_model,
    params:
        study=PLAN.file,
        settings=model_settings,
        code=code_of_task("train"),
    shell:
        "histostudy train --study {params.study} --task {wildcards.task} --model {wildcards.model} > {log} 2>&1"


rule evaluate:
    input:
        tables=PLAN.tables,
        index=INDEX,
        splits=f"{HOME}/splits.csv",
        runs=runs_of_task,
    output:
        metrics=f"{HOME}/metrics/{{task}}.csv",
        comparison=f"{HOME}/comparison/{{task}}.csv",
        curves=f"{HOME}/tables/{{task}}_curves.json",
    log:
        f"{LOGS}/evaluate/{{task}}.log",
    benchmark:
        f"{LOGS}/benchmarks/evaluate/{{task}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(4000),
    params:
        study=PLAN.file,
        settings=PLAN.settings("compare", "seed", "tasks"),
        code=code_of_task("evaluate"),
    shell:
        "histostudy evaluate --study {params.study} --task {wildcards.task} > {log} 2>&1"


if STUDY.sequence:

    rule learn:
        input:
            tables=PLAN.tables,
            index=INDEX,
            bags=BAGS_RECORD,
            splits=f"{HOME}/splits.csv",
        output:
            f"{HOME}/runs/sequence/{{model}}/runs.parquet",
        log:
            f"{LOGS}/learn/{{model}}.log",
        benchmark:
            f"{LOGS}/benchmarks/learn/{{model}}.tsv"
        retries: 1
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(8000),
            gpu=gpus_of_model,
        params:
            study=PLAN.file,
            settings=lambda wildcards: PLAN.learner_settings(wildcards.model),
            code=PLAN.code("learn"),
        shell:
            "histostudy learn --study {params.study} --model {wildcards.model} > {log} 2>&1"

    rule sequence:
        input:
            tables=PLAN.tables,
            index=INDEX,
            splits=f"{HOME}/splits.csv",
            runs=[f"{HOME}/runs/sequence/{model}/runs.parquet" for model in STUDY.learners],
        output:
            learned(),
        log:
            f"{LOGS}/sequence.log",
        benchmark:
            f"{LOGS}/benchmarks/sequence.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(4000),
        params:
            study=PLAN.file,
            settings=PLAN.settings("compare", "seed", "tasks", "sequence"),
            code=PLAN.code("sequence"),
        shell:
            "histostudy evaluate-sequence --study {params.study} > {log} 2>&1"


rule transfer:
    input:
        runs=lambda wildcards: [f"{HOME}/runs/{t.name}/{wildcards.model}/runs.parquet" for t in STUDY.tasks],
        tables=PLAN.tables,
        index=INDEX,
        bags=BAGS_RECORD,
    output:
        f"{HOME}/tables/transfer_{{model}}.csv",
    log:
        f"{LOGS}/transfer/{{model}}.log",
    benchmark:
        f"{LOGS}/benchmarks/transfer/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(8000),
    params:
        study=PLAN.file,
        settings=PLAN.settings("compare", "seed"),
        code=PLAN.code("transfer"),
    shell:
        "histostudy transfer --study {params.study} --model {wildcards.model} > {log} 2>&1"


if "stain" in STUDY.audit:

    rule audit:
        input:
            tables=PLAN.tables,
            index=INDEX,
            stain=PLAN.indexes(PLAN.layout.stain),
        output:
            audits(),
        log:
            f"{LOGS}/audit.log",
        benchmark:
            f"{LOGS}/benchmarks/audit.tsv"
        retries: 1
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(8000),
            gpu=0 if STUDY.features.encoder == "builtin" else 1,
        params:
            study=PLAN.file,
            settings=PLAN.settings("features", "tiles", "compare", "seed"),
            weights=PLAN.encoder_weights(),
            code=PLAN.code("audit"),
        shell:
            "histostudy audit --study {params.study} > {log} 2>&1"


rule overview:
    input:
        runs=runs_of_study,
        metrics=results_of_study("metrics"),
        comparison=results_of_study("comparison"),
    output:
        models=f"{HOME}/tables/models.csv",
        ranks=f"{HOME}/tables/ranks.csv",
    log:
        f"{LOGS}/overview.log",
    benchmark:
        f"{LOGS}/benchmarks/overview.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1000),
    params:
        study=PLAN.file,
        settings=PLAN.settings("tasks", "models", "compare", "sequence"),
        code=PLAN.code("overview"),
    shell:
        "histostudy overview --study {params.study} > {log} 2>&1"


rule figures:
    input:
        tables=PLAN.tables,
        index=INDEX,
        bags=BAGS_RECORD,
        flow=f"{HOME}/cohort_flow.json",
        modalities=rules.cohort.output.modalities,
        runs=runs_of_study,
        metrics=results_of_study("metrics"),
        comparison=results_of_study("comparison"),
        transfer=transfers(),
        sequence=learned(),
        audit=audits(),
        overview=[*rules.overview.output] if STUDY.tasks else [],
    output:
        figure_files(),
    log:
        f"{LOGS}/figures.log",
    benchmark:
        f"{LOGS}/benchmarks/figures.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(4000),
    params:
        study=PLAN.file,
        settings=PLAN.settings("tasks", "models", "modalities", "compare", "sequence", "audit", "tiles", "features"),
        code=PLAN.code("figures"),
    shell:
        "histostudy figures --study {params.study} > {log} 2>&1"


rule report:
    input:
        tables=PLAN.tables,
        slides=PLAN.layout.slides_table if STUDY.has_slides else [],
        flow=f"{HOME}/cohort_flow.json",
        table_one=f"{HOME}/table_one.csv",
        leakage=f"{HOME}/leakage.json" if STUDY.tasks else [],
        metrics=results_of_study("metrics"),
        comparison=results_of_study("comparison"),
        overview=[*rules.overview.output] if STUDY.tasks else [],
        sequence=learned(),
        audit=audits(),
        figures=rules.figures.output,
    output:
        page=report(
            f"{HOME}/report.html", caption="../report/report.rst", category="Report", labels={"page": "whole study"}
        ),
        reporting=PLAN.reporting,
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/benchmarks/report.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(2000),
    params:
        study=PLAN.file,
        # the page prints the whole study
        settings=PLAN.settings(),
        code=PLAN.code("report"),
    shell:
        "histostudy report --study {params.study} > {log} 2>&1"


rule summary:
    input:
        metrics=results_of_study("metrics"),
    output:
        SUMMARY,
    log:
        f"{LOGS}/summary.log",
    benchmark:
        f"{LOGS}/benchmarks/summary.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1000),
    params:
        study=PLAN.file,
        code=PLAN.code("summary"),
    shell:
        "histostudy summary --study {params.study} > {log} 2>&1"
