# A registered model as an image that serves it: on CPUs, offline, not as root.
#
#   mlflow artifacts download -u models:/sg3flow-starter@champion -d build/model
#   docker build -t sg3flow-serve .
#   docker run --rm -p 8080:8080 --read-only --tmpfs /tmp sg3flow-serve
#
# The image holds the model's own copy of the code and runs the application that `sg3flow serve`
# runs for each version. `mlflow models serve` checks less, and as a container's first process it
# ignores `docker stop` until docker kills it. docs/registry-and-serving.md has the details.

FROM python:3.11.13-slim-bookworm AS build
# The CPU build of torch is on a separate index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /tmp/constraints.txt
COPY build/model/requirements.txt /tmp/requirements.txt
RUN pip install --extra-index-url "$TORCH_INDEX" -c /tmp/constraints.txt \
    -r /tmp/requirements.txt ninja
COPY build/model /model
# Versions registered by sg3flow 0.1 have no model_app.py: they patch MLflow's application when loaded.
RUN app=/model/code/sg3flow/serving/model_app.py; test -e $app \
    || echo "from mlflow.pyfunc.scoring_server.app import app" > $app
# The kernels are built here, where there is a compiler; the instruction set is chosen at run time.
RUN SG3FLOW_KERNELS=/kernels PYTHONPATH=/model/code \
    python -c "from sg3flow.ops.backend import load_kernels; load_kernels('cpu')"

FROM python:3.11.13-slim-bookworm
COPY --from=build /venv /venv
COPY --from=build /kernels /kernels
COPY --from=build /model /model
RUN useradd --system --uid 10001 --home-dir /tmp --shell /usr/sbin/nologin serve
USER 10001
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_TRACKING_URI=sqlite:////tmp/none.db \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SG3FLOW_DEVICE=cpu \
    SG3FLOW_KERNELS=/kernels \
    __pyfunc_model_path__=/model
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/ping', timeout=4)"]
CMD ["uvicorn", "--host", "0.0.0.0", "--port", "8080", "--app-dir", "/model/code", "sg3flow.serving.model_app:app"]
