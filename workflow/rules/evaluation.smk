rule evaluate:
    input:
        checkpoint=evaluated_checkpoint,
        texts=evaluated_texts,
    output:
        f"{RUN}/scores.json",
    params:
        config=lambda wildcards: as_parameter(PLAN.evaluate(checkpoint_of(wildcards))),
        code=code_digest("evaluation"),
        checkpoint=lambda wildcards: manifest_of(wildcards),
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/evaluate.log",
    benchmark:
        "logs/{backbone}/{setting}/{method}/seed{seed}/evaluate.tsv"
    # The engines use all cores; two of them at once are far slower than one after the other.
    threads: workflow.cores
    resources:
        mem_mb=8000,
    shell:
        "lensflow evaluate --config {params.config:q} --checkpoint {params.checkpoint}"
        " --data results/data --cache results/cells --output {output} 2> {log}"


rule collect_scores:
    input:
        [f"results/{c.folder}/scores.json" for c in PLAN.checkpoints],
    output:
        "results/scores.csv",
    params:
        code=code_digest("scores"),
    log:
        "logs/collect_scores.log",
    shell:
        "lensflow collect-scores --scores {input} --output {output} 2> {log}"
