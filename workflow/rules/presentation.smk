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
        config=lambda wildcards: as_parameter(
            PLAN.presentation() | {"command": command(), "results": RESULTS}
        ),
        code=code_of("resolve_config"),
    shell:
        "lensflow resolve-config --config {params.config:q} --output {output} 2> {log}"


rule make_table:
    input:
        config="results/config.json",
        comparisons="results/comparisons.csv",
        versus="results/versus.csv",
        claims="results/claims.csv",
        costs=of_trainings("cost.json"),
    output:
        tables(),
    log:
        "logs/make_table.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=each_attempt(1000),
        runtime=each_attempt(5),
    params:
        code=code_of("make_table"),
        folder=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "lensflow make-table --config {input.config} --comparisons {input.comparisons} --versus {input.versus}"
        " --claims {input.claims} --costs {input.costs} --output {params.folder} 2> {log}"


rule make_figures:
    input:
        config="results/config.json",
        scores="results/scores.csv",
        comparisons="results/comparisons.csv",
        sweeps="results/sweeps.csv",
        subspaces=on_states(
            lambda wildcards: "results/{backbone}/{setting}/subspaces.safetensors"
        ),
        states=on_states(states_of("figures")),
        runs=of_trainings("history.jsonl"),
        dev_states=of_trainings("dev_states.safetensors"),
        costs=lambda wildcards: [
            f"results/{c.folder}/cost.json"
            for c in PLAN.drawn(wildcards.backbone, wildcards.setting)
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
        code=code_of("make_figures"),
    shell:
        "lensflow make-figures --config {input.config} --backbone {wildcards.backbone} --setting {wildcards.setting}"
        " --scores {input.scores} --comparisons {input.comparisons} --sweeps {input.sweeps} --subspaces {input.subspaces}"
        " --states {input.states} --runs {input.runs} --costs {input.costs} --output {output} 2> {log}"


rule report:
    input:
        config="results/config.json",
        scores="results/scores.csv",
        comparisons="results/comparisons.csv",
        versus="results/versus.csv",
        claims="results/claims.csv",
        costs=of_trainings("cost.json"),
        figures=[
            f"results/figures/{backbone}.{setting}"
            for backbone, setting in drawn_pairs()
        ],
        # Of a benchmark script, if one was run.
        timings=lambda wildcards: sorted(
            f"results/timings/{path.name}"
            for path in Path(RESULTS, "timings").glob("*.md")
        ),
        # The samples beside them are shown: what was set aside as damaged is made again, not left out.
        samples=[f"results/{c.folder}/scores.json" for c in PLAN.checkpoints],
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
        code=code_of("report"),
        template=file_digest(files("lensflow") / "templates/report.html.j2"),
        folder=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "lensflow report --config {input.config} --scores {input.scores} --comparisons {input.comparisons}"
        " --versus {input.versus} --claims {input.claims} --costs {input.costs} --figures {input.figures} --timings {input.timings} --results {params.folder} --output {output} 2> {log}"
