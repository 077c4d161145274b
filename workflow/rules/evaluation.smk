rule evaluate:
    input:
        checkpoint=evaluated_checkpoint,
        texts=evaluated_texts,
    output:
        f"{RUN}/scores.json",
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/evaluate.log",
    benchmark:
        "logs/{backbone}/{setting}/{method}/seed{seed}/evaluate.tsv"
    conda:
        "../../envs/cpu.yaml"
    # The engines use all cores and several GB; two at once are far slower than one after the other.
    threads: workflow.cores
    resources:
        mem_mb=8000,
    params:
        config=lambda wildcards: as_parameter(PLAN.evaluate(checkpoint_of(wildcards))),
        code=code_digest("evaluation"),
        checkpoint=lambda wildcards: manifest_of(wildcards),
    shell:
        "lensflow evaluate --config {params.config:q} --checkpoint {params.checkpoint}"
        " --data results/data --cache results/cells --output {output} 2> {log}"


rule collect_scores:
    input:
        [f"results/{c.folder}/scores.json" for c in PLAN.checkpoints],
    output:
        scores="results/scores.csv",
        comparisons="results/comparisons.csv",
    log:
        "logs/collect_scores.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        config=lambda wildcards: as_parameter(PLAN.collect_scores()),
        code=code_digest("scores"),
    shell:
        "lensflow collect-scores --config {params.config:q} --scores {input} --output {output.scores} 2> {log}"
