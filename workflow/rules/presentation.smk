rule resolve_config:
    output:
        "results/config.json",
    log:
        "logs/resolve_config.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(500),
        runtime=each_attempt(2),
    params:
        # A function, so that braces in a prompt template are not taken for wildcards.
        config=lambda wildcards: as_parameter(PLAN.presentation()),
    shell:
        "printf '%s\\n' {params.config:q} > {output} 2> {log}"


rule make_table:
    input:
        config="results/config.json",
        comparisons="results/comparisons.csv",
    output:
        markdown="results/tables/main.md",
        latex="results/tables/main.tex",
        csv="results/tables/main.csv",
    log:
        "logs/make_table.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(1000),
        runtime=each_attempt(5),
    params:
        code=code_digest("presentation"),
    shell:
        "lensflow make-table --config {input.config} --comparisons {input.comparisons} --output {output.markdown}"
        " 2> {log}"


rule make_figures:
    input:
        config="results/config.json",
        comparisons="results/comparisons.csv",
        subspaces=lambda wildcards: (
            "results/{backbone}/{setting}/subspaces.safetensors"
            if PLAN.on_states(wildcards.backbone, wildcards.setting)
            else []
        ),
        runs=lambda wildcards: [
            f"results/{c.folder}/history.jsonl"
            for c in PLAN.shown(wildcards.backbone)
            if c.setting == wildcards.setting
        ],
    output:
        directory("results/figures/{backbone}.{setting}"),
    log:
        "logs/figures/{backbone}.{setting}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(5),
    params:
        code=code_digest("presentation"),
    shell:
        "lensflow make-figures --config {input.config} --backbone {wildcards.backbone} --setting {wildcards.setting}"
        " --comparisons {input.comparisons} --subspaces {input.subspaces} --runs {input.runs} --output {output} 2> {log}"


rule report:
    input:
        config="results/config.json",
        scores="results/scores.csv",
        comparisons="results/comparisons.csv",
        figures=[
            f"results/figures/{backbone}.{setting}"
            for backbone, setting in trained_pairs()
        ],
    output:
        "results/report.html",
    log:
        "logs/report.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(10),
    params:
        code=code_digest("presentation"),
        template=file_digest(files("lensflow") / "templates/report.html.j2"),
        results=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "lensflow report --config {input.config} --scores {input.scores} --comparisons {input.comparisons}"
        " --figures {input.figures} --results {params.results} --output {output} 2> {log}"
