FROM python:3.11-slim-bookworm
# User, group and the socket's directory as in the official image
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql postgres
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql
RUN install -d -o postgres -g postgres -m 3777 /run/postgresql
COPY postgres-entrypoint /entrypoint
ENV PATH=/usr/lib/postgresql/15/bin:$PATH
ENTRYPOINT ["/entrypoint"]
CMD ["postgres"]
