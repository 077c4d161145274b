rule prepare_backbone:
    input:
        lambda wildcards: described_by(wildcards.backbone),
    output:
        "results/{backbone}/backbone/manifest.json",
    log:
        "logs/{backbone}/prepare_backbone.log",
    benchmark:
        "logs/{backbone}/prepare_backbone.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(6000),
        runtime=minutes,
    params:
        config=configured("prepare_backbone"),
        code=code_of("prepare_backbone"),
    shell:
        "lensflow prepare-backbone --config {params.config:q} --output {output} 2> {log}"


rule pair_data:
    input:
        lambda wildcards: local_files(
            PLAN.pair_data(wildcards.corpus, wildcards.language)
        ),
    output:
        rows="results/data/{corpus}/{language}.jsonl",
        source="results/data/{corpus}/{language}.source.json",
    log:
        "logs/data/{corpus}/{language}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(1000),
        runtime=each_attempt(3),
    params:
        config=configured("pair_data"),
        code=code_of("pair_data"),
        root=lambda wildcards: DATASETS_ROOT_OPTION,
    shell:
        "lensflow pair-data --config {params.config:q} {params.root:q} --output {output.rows} 2> {log}"
