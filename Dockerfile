# A saved classifier behind HTTP, on a CPU, not as root. docs/deploy.md says more.
#
#   docker build -t zoo --build-arg TORCH_INDEX=URL .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/flowers/model:/model:ro" zoo

FROM python:3.11-slim AS build
# The address of PyTorch's builds for CPUs, which its page "Get Started" names. Without it, Linux gets the build that
# brings CUDA: gigabytes that this image never uses.
ARG TORCH_INDEX=""
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/zoo \
    && /opt/zoo/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY zoo zoo
COPY plugins plugins
COPY heads heads
COPY recipes recipes
RUN /opt/zoo/bin/pip install --no-cache-dir -c constraints.txt ".[serve]"

FROM python:3.11-slim
COPY --from=build /opt/zoo /opt/zoo
# Nothing is written but the cache folder, so the container may be read-only with a /tmp of its own.
ENV PATH=/opt/zoo/bin:$PATH HOME=/tmp ZOO_CACHE_DIR=/tmp/zoo PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=15s --timeout=5s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["zoo", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
