# A job per language: Snakemake then knows of each what it depends on. The stage itself takes several at once.
rule extract_hidden_states:
    input:
        backbone="results/{backbone}/backbone/manifest.json",
        texts="results/data/{corpus}/{language}.jsonl",
    output:
        "results/{backbone}/hidden_states/{corpus}/{language}.safetensors",
    log:
        "logs/{backbone}/hidden_states/{corpus}/{language}.log",
    benchmark:
        "logs/{backbone}/hidden_states/{corpus}/{language}.tsv"
    conda:
        "../../envs/cpu.yaml"
    # Loading takes as long as the forward passes on a small model: two jobs of one thread beat one of two.
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes,
        slurm_partition=partition,
        gpu=one_gpu,
    params:
        config=configured("extract_hidden_states"),
        code=code_of("extract_hidden_states"),
    shell:
        "lensflow extract-hidden-states --config {params.config:q} --backbone {input.backbone}"
        " --texts {input.texts} --gpus {resources.gpu} --outputs {output} 2> {log}"


rule fit_subspaces:
    input:
        states=states_of("probing"),
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
    shell:
        "lensflow fit-subspaces --config {params.config:q} --states {input.states} --texts {input.texts}"
        " --output {output} 2> {log}"
