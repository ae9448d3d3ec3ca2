# A model as a service, from its ONNX export; the folder with model.onnx is mounted at /model. No TensorFlow.
#   docker build -f deploy/serve.Dockerfile -t wastetune-serve .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/results/my_study/export:/model:ro" wastetune-serve
# If other machines can reach it, add -e WASTETUNE_API_KEY=... and a reverse proxy with TLS.
FROM python:3.12-slim
WORKDIR /opt/wastetune
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src src
COPY studies studies
COPY search_spaces search_spaces
# The extra `serve` lists everything that serving needs; the other requirements of wastetune are for training.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['serve'], sep='\n')" > serve.txt \
    && pip install --no-cache-dir -r serve.txt && pip install --no-cache-dir --no-deps . \
    && useradd --no-create-home --uid 10001 wastetune
USER wastetune
WORKDIR /
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["wastetune"]
CMD ["serve", "--bundle", "/model", "--host", "0.0.0.0", "--port", "8000"]
