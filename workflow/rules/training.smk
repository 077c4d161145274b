rule train:
    input:
        backbone="results/{backbone}/backbone/manifest.json",
        subspaces="results/{backbone}/{setting}/subspaces.safetensors",
        states=of_languages("results/{backbone}/hidden_states/{corpus}/{language}.safetensors", "training"),
        texts=of_languages("results/data/{corpus}/{language}.jsonl", "training"),
    output:
        delta=f"{RUN}/delta.safetensors",
        config=f"{RUN}/config.json",
        history=f"{RUN}/history.jsonl",
        states=f"{RUN}/dev_states.safetensors",
    params:
        config=lambda wildcards: as_parameter(PLAN.train(checkpoint_of(wildcards))),
        code=code_digest("training"),
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/train.log",
    benchmark:
        "logs/{backbone}/{setting}/{method}/seed{seed}/train.tsv"
    threads: 1
    resources:
        mem_mb=4000,
    shell:
        "lensflow train --config {params.config:q} --backbone {input.backbone} --subspaces {input.subspaces}"
        " --states {input.states} --texts {input.texts} --output {output.delta} 2> {log}"


rule export_checkpoint:
    input:
        backbone="results/{backbone}/backbone/manifest.json",
        delta=f"{RUN}/delta.safetensors",
    output:
        # Only evaluation needs it, and `lensflow export` builds it again: it goes when the checkpoint is evaluated.
        temp(directory(f"{RUN}/checkpoint")),
    params:
        code=code_digest("deltas"),
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/export_checkpoint.log",
    resources:
        mem_mb=2000,
    shell:
        "lensflow export-checkpoint --backbone {input.backbone} --delta {input.delta}"
        " --output {output}/manifest.json 2> {log}"
