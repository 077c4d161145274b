# The environment and the workflow in one image; what it makes lies in the folder that it is started on.
#   docker build --tag lensflow .                        # for a GPU: --build-arg LOCK=cuda --tag lensflow:cuda
#   docker run --rm --volume "$PWD:/work" lensflow       # for a GPU: --gpus all
#   docker run --rm --volume "$PWD:/work" lensflow snakemake --snakefile /lensflow/Snakefile --cores 2 --configfile my.yaml
# The full image of Python has make, and the compiler that triton asks for on a GPU.
FROM python:3.11-bookworm
ARG LOCK=cpu
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
WORKDIR /lensflow
# Only what the environment is made from: another configuration does not install everything anew.
COPY Makefile pyproject.toml README.md LICENSE ./
COPY envs envs
COPY src src
RUN make setup LOCK=$LOCK
COPY . .
ENV PATH=/lensflow/.venv/bin:$PATH
WORKDIR /work
CMD ["snakemake", "--snakefile", "/lensflow/Snakefile", "--cores", "all"]
