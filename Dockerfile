# Build: docker build -t mantlet .    Run: docker run -p 8080:8080 mantlet
# Without CUDA it is much smaller: --build-arg PIP_EXTRA_INDEX_URL=URL of an index that has torch for CPUs.
FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY mantlet mantlet
COPY defenses defenses
COPY detectors detectors
COPY serving serving
COPY redteam redteam
RUN python -m venv /opt/mantlet \
 && /opt/mantlet/bin/pip install --no-cache-dir -c constraints.txt ".[onnx,explain]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/mantlet mantlet
COPY --from=build /opt/mantlet /opt/mantlet
COPY configs /etc/mantlet
ENV PATH=/opt/mantlet/bin:$PATH OMP_WAIT_POLICY=PASSIVE
WORKDIR /var/lib/mantlet
USER 10001
VOLUME /var/lib/mantlet
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["mantlet"]
CMD ["serve", "/etc/mantlet/gateway/default.yaml", "--set", "listen.host=0.0.0.0"]
