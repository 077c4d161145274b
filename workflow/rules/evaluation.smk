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
        config=configured("fetch_items"),
        code=code_of("fetch_items"),
        # A list: what is unset is left out of the command.
        root=lambda wildcards: DATASETS_ROOT_OPTION,
    shell:
        "lensflow fetch-items --config {params.config:q} --language {wildcards.language} {params.root:q}"
        " --output {output.rows} 2> {log}"


# One rule per job that answers: it starts each engine once, for all of its checkpoints, so its outputs are theirs.
for part in PLAN.parts(ONE_BY_ONE):

    rule:
        name:
            part.rule
        input:
            backbone=f"results/{part.backbone}/backbone/manifest.json",
            trained=[
                f"results/{c.folder}/{name}"
                for c in part.checkpoints
                if not c.is_base
                for name in ("delta.safetensors", "intervention.safetensors")
            ],
            # Each once: a part's checkpoints are evaluated on much the same, and Snakemake checks every file that is named.
            asked=list(
                dict.fromkeys(
                    path for c in part.checkpoints for path in evaluated_on(c)
                )
            ),
        output:
            [f"results/{c.folder}/answers.json" for c in part.checkpoints],
        log:
            f"logs/{part.backbone}/answer.{part.number}.log",
        benchmark:
            f"logs/{part.backbone}/answer.{part.number}.tsv"
        conda:
            "../../envs/cpu.yaml"
        threads: needs(part).threads or workflow.cores
        resources:
            mem_mb=memory_of(part, 8000),
            runtime=minutes_of(part),
            slurm_partition=needs(part).partition,
            gpu=needs(part).gpus,
            nodes=1,  # that has all of the GPUs
            # A text: Snakemake knows no fractions.
            gpu_memory=str(needs(part).gpu_memory),
        params:
            # Functions, so that braces in a prompt template are not taken for wildcards.
            config=lambda wildcards, part=part: as_parameter(PLAN.answer(part)),
            code=PLAN.answering_code(part),
            # A function of `output` is not compared: what was moved does not run again.
            runs=lambda wildcards, output: [str(Path(path).parent) for path in output],
            results=lambda wildcards, output: results_of(output[0]),
            tasks=lambda wildcards, output: [".", str(HERE)],
        shell:
            "lensflow answer --config {params.config:q} --backbone {input.backbone} --runs {params.runs:q}"
            " --corpora {params.results}/data --items {params.results}/benchmarks --cache {params.results}/cells"
            " --gpus {resources.gpu} --gpu-memory {resources.gpu_memory} --tasks {params.tasks:q} 2> {log}"


rule score:
    input:
        answers=f"{RUN}/answers.json",
        asked=lambda wildcards: evaluated_on(checkpoint_of(wildcards)),
    output:
        f"{RUN}/scores.json",
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/score.log",
    benchmark:
        "logs/{backbone}/{setting}/{method}/seed{seed}/score.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=each_attempt(3000),
        runtime=each_attempt(10),
    params:
        config=configured("score"),
        code=lambda wildcards: PLAN.scoring_code(checkpoint_of(wildcards)),
        results=lambda wildcards, output: results_of(output[0]),
        tasks=lambda wildcards, output: [".", str(HERE)],
    shell:
        "lensflow score --config {params.config:q} --answers {input.answers} --corpora {params.results}/data"
        " --items {params.results}/benchmarks --cache {params.results}/cells --tasks {params.tasks:q}"
        " --output {output} 2> {log}"


rule collect_scores:
    input:
        [f"results/{c.folder}/scores.json" for c in PLAN.checkpoints],
        [f"results/{c.folder}/judged.json" for c in PLAN.checkpoints if PLAN.judged(c)],
    output:
        scores="results/scores.csv",
        comparisons="results/comparisons.csv",
        versus="results/versus.csv",
        claims="results/claims.csv",
        sweeps="results/sweeps.csv",
    log:
        "logs/collect_scores.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(4000),
        runtime=each_attempt(30),
    params:
        config=configured("collect_scores"),
        code=code_of("collect_scores"),
    shell:
        "lensflow collect-scores --config {params.config:q} --scores {input} --output {output.scores} 2> {log}"
