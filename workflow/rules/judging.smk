rule judge:
    input:
        f"{RUN}/scores.json",
    output:
        f"{RUN}/judged.json",
    log:
        "logs/{backbone}/{setting}/{method}/seed{seed}/judge.log",
    benchmark:
        "logs/{backbone}/{setting}/{method}/seed{seed}/judge.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(600),
        # One at a time (profiles/default), or the limits of requests would hold for each job and not for the endpoint.
        judge=1,
    params:
        config=configured("judge"),
        code=code_of("judge"),
        prompts=file_digest(files("lensflow") / "data/judge_prompts.yaml"),
        results=lambda wildcards, output: results_of(output[0]),
    shell:
        "lensflow judge --config {params.config:q} --scores {input} --cache {params.results}/verdicts"
        " --output {output} 2> {log}"
