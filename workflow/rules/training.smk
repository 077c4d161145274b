rule train:
    input:
        backbone="results/{backbone}/backbone/manifest.json",
        subspaces=with_states(
            lambda wildcards: "results/{backbone}/{setting}/subspaces.safetensors"
        ),
        states=with_states(states_of("training")),
        texts=of_languages("results/data/{corpus}/{language}.jsonl", "training"),
        shared=shared_files,
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
        gpu=gpus_to_train,
    params:
        config=configured("train"),
        code=lambda wildcards: PLAN.training_code(wildcards.method),
    shell:
        "lensflow train --config {params.config:q} --backbone {input.backbone} --subspaces {input.subspaces}"
        " --states {input.states} --texts {input.texts} --gpus {resources.gpu} --output {output.delta} 2> {log}"
