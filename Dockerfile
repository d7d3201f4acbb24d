# One image for every process of the Procfile: docker run … serving-agent web | worker | webhook | scheduler.
# The tests run on the same Debian and Python. Add a digest (…@sha256:…) if your registry mirrors the image.
FROM python:3.11-slim-bookworm AS build
WORKDIR /app
RUN python3 -m venv --without-pip /venv
COPY requirements.lock ./
# Wheels only, so the build needs no compiler. dumb-init forwards signals even while the process is starting.
RUN python3 -m pip --python /venv/bin/python3 install --no-cache-dir --disable-pip-version-check \
        --root-user-action=ignore --only-binary=:all: --require-hashes --requirement requirements.lock
COPY . .
RUN ENVIRONMENT=production /venv/bin/python3 manage.py collectstatic --noinput --verbosity 0 \
    && rm -rf var \
    && /venv/bin/python3 -m compileall -q .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="serving-agent" \
      org.opencontainers.image.description="One HTTP API, one queue and one task history in front of model platforms" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/serving-agent/serving-agent"
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    ENVIRONMENT=production \
    MEDIA_ROOT=/media \
    PROMETHEUS_MULTIPROC_DIR=/tmp/metrics \
    WORKER_METRICS_ADDRESS=0.0.0.0:9100
COPY --from=build /venv /venv
COPY --from=build /app /app
# Mount a volume for uploads here. The agent writes everything else to /tmp; the root file system may be read-only.
RUN install -d -o 10001 -g 10001 /media
WORKDIR /app
USER 10001:10001
EXPOSE 8000 9100 12000
HEALTHCHECK --interval=30s --timeout=6s --start-period=60s CMD ["python3", "scripts/healthcheck.py"]
# dumb-init passes signals on while a process is still starting as PID 1.
ENTRYPOINT ["dumb-init", "--single-child", "--", "scripts/process"]
CMD ["web"]
