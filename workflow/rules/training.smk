rule train:
    input:
        backbone="results/{backbone}/backbone/manifest.json",
        subspaces=with_states(
            lambda wildcards: "results/{backbone}/{setting}/subspaces.safetensors"
        ),
        states=with_states(
            of_languages(
                "results/{backbone}/hidden_states/{corpus}/{language}.safetensors",
                "training",
            )
        ),
        texts=of_languages("results/data/{corpus}/{language}.jsonl", "training"),
    output:
        delta=f"{RUN}/delta.safetensors",
        config=f"{RUN}/config.json",
        history=f"{RUN}/history.jsonl",
        states=f"{RUN}/dev_states.safetensors",
        intervention=f"{RUN}/intervention.safetensors",
        cost=f"{RUN}/cost.json",
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/train.log",
    benchmark:
        "logs/{backbone}/{setting}/{method}/seed{seed}/train.tsv"
    conda:
        "../../envs/cpu.yaml"
    # The top layers alone fill no more than a thread.
    threads: lambda w: 1 if PLAN.needs_states(w.method) else threads_of_model(w)
    resources:
        mem_mb=memory(lambda w: 4000 if PLAN.needs_states(w.method) else 10000),
        runtime=minutes,
        slurm_partition=partition,
        gpu=one_gpu,
    params:
        config=lambda wildcards: as_parameter(PLAN.train(checkpoint_of(wildcards))),
        code=lambda wildcards: PLAN.training_code(wildcards.method),
    shell:
        "lensflow train --config {params.config:q} --backbone {input.backbone} --subspaces {input.subspaces}"
        " --states {input.states} --texts {input.texts} --gpus {resources.gpu} --output {output.delta} 2> {log}"


rule export_checkpoint:
    input:
        backbone="results/{backbone}/backbone/manifest.json",
        delta=f"{RUN}/delta.safetensors",
    output:
        # Only evaluation needs it, and `lensflow export` builds it again: it goes when the checkpoint is evaluated.
        temp(directory(f"{RUN}/checkpoint")),
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/export_checkpoint.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(20),
    params:
        code=code_digest("stages.export_checkpoint"),
    shell:
        "lensflow export-checkpoint --backbone {input.backbone} --delta {input.delta}"
        " --output {output}/manifest.json 2> {log}"
