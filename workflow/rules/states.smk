# One rule per backbone and corpus: its job loads the backbone once, for all languages.
for texts in PLAN.extracted():

    rule:
        name:
            texts.rule
        input:
            backbone=f"results/{texts.backbone}/backbone/manifest.json",
            texts=[
                f"results/data/{texts.corpus}/{language}.jsonl"
                for language in texts.languages
            ],
        output:
            # update: they stay while the job runs, which computes the states of a language only if its file is not up to date.
            [
                update(
                    f"results/{texts.backbone}/hidden_states/{texts.corpus}/{language}.safetensors"
                )
                for language in texts.languages
            ],
        log:
            f"logs/{texts.backbone}/hidden_states/{texts.corpus}.log",
        benchmark:
            f"logs/{texts.backbone}/hidden_states/{texts.corpus}.tsv"
        # Here, since a profile cannot name these rules.
        group:
            "states"
        conda:
            "../../envs/cpu.yaml"
        threads: needs(texts).threads or workflow.cores
        resources:
            mem_mb=memory_of(texts, 4000),
            runtime=minutes_of(texts),
            slurm_partition=needs(texts).partition,
            gpu=min(1, needs(texts).gpus),
        params:
            # A function, so that braces in a prompt template are not taken for wildcards.
            config=lambda wildcards, texts=texts: as_parameter(
                PLAN.extract_hidden_states(texts.backbone, texts.corpus)
            ),
            code=code_of("extract_hidden_states"),
        shell:
            "lensflow extract-hidden-states --config {params.config:q} --backbone {input.backbone}"
            " --texts {input.texts} --gpus {resources.gpu} --outputs {output} 2> {log}"


rule fit_subspaces:
    input:
        # The states themselves do not tell whether they have changed; see `states_of`.
        states=states_of("probing"),
        backbone="results/{backbone}/backbone/manifest.json",
        texts=of_languages("results/data/{corpus}/{language}.jsonl", "probing"),
    output:
        "results/{backbone}/{setting}/subspaces.safetensors",
    log:
        "logs/{backbone}/{setting}/fit_subspaces.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(10),
    params:
        config=configured("fit_subspaces"),
        code=code_of("fit_subspaces"),
        states=states_digest("probing"),
    shell:
        "lensflow fit-subspaces --config {params.config:q} --states {input.states} --texts {input.texts}"
        " --output {output} 2> {log}"
