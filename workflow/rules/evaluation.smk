rule fetch_items:
    input:
        lambda wildcards: local_files(
            PLAN.fetch_items(wildcards.benchmark, wildcards.language)
        ),
    output:
        rows="results/benchmarks/{benchmark}/{language}.jsonl",
        source="results/benchmarks/{benchmark}/{language}.source.json",
    log:
        "logs/benchmarks/{benchmark}/{language}.log",
    # First, so that a data set that cannot be had or is not as expected is reported before anything is trained.
    priority: 100
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(1000),
        runtime=each_attempt(3),
    params:
        config=lambda wildcards: as_parameter(
            PLAN.fetch_items(wildcards.benchmark, wildcards.language)
        ),
        code=code_digest("stages.fetch_items"),
        # A list: what is unset is left out of the command.
        root=lambda wildcards: DATASETS_ROOT_OPTION,
    shell:
        "lensflow fetch-items --config {params.config:q} --language {wildcards.language} {params.root:q}"
        " --output {output.rows} 2> {log}"


rule evaluate:
    input:
        checkpoint=evaluated_checkpoint,
        intervention=applied_intervention,
        texts=evaluated_texts,
        benchmarks=evaluated_items,
    output:
        f"{RUN}/scores.json",
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/evaluate.log",
    benchmark:
        "logs/{backbone}/{setting}/{method}/seed{seed}/evaluate.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: threads_of_model
    resources:
        mem_mb=memory(8000),
        runtime=minutes,
        slurm_partition=partition,
        gpu=lambda wildcards: needs(wildcards).gpus,
        nodes=1,  # that has all of the GPUs
        # A text: Snakemake knows no fractions.
        gpu_memory=lambda wildcards: str(needs(wildcards).gpu_memory),
    params:
        config=lambda wildcards: as_parameter(PLAN.evaluate(checkpoint_of(wildcards))),
        code=code_digest("stages.evaluate"),
        manifest=lambda wildcards, input: (
            input.checkpoint
            if wildcards.method == "base"
            else f"{input.checkpoint}/manifest.json"
        ),
        # A function of `output` is not compared: what was moved does not run again.
        results=lambda wildcards, output: results_of(output[0]),
        tasks=lambda wildcards, output: [".", str(HERE)],
    shell:
        "lensflow evaluate --config {params.config:q} --checkpoint {params.manifest} --intervention {input.intervention}"
        " --corpora {params.results}/data --items {params.results}/benchmarks --cache {params.results}/cells"
        " --gpus {resources.gpu} --gpu-memory {resources.gpu_memory} --tasks {params.tasks:q} --output {output} 2> {log}"


rule collect_scores:
    input:
        [f"results/{c.folder}/scores.json" for c in PLAN.checkpoints],
        [f"results/{c.folder}/judged.json" for c in PLAN.checkpoints if PLAN.judged(c)],
    output:
        scores="results/scores.csv",
        comparisons="results/comparisons.csv",
        versus="results/versus.csv",
        sweeps="results/sweeps.csv",
    log:
        "logs/collect_scores.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(4000),
        runtime=each_attempt(30),
    params:
        config=lambda wildcards: as_parameter(PLAN.collect_scores()),
        code=code_digest("stages.collect_scores"),
    shell:
        "lensflow collect-scores --config {params.config:q} --scores {input} --output {output.scores} 2> {log}"
