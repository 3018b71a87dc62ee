"""Dockerfiles as people write them, with a shell in place of their toolchains: what comes of the whole."""

from __future__ import annotations

import pytest

from tests.building import BASE, Project, daemon, project

__all__ = ["daemon", "project"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def built(project: Project, files: dict[str, str], dockerfile: str, *images: str) -> str:
    """What the image prints that comes of a Dockerfile, in which `images` are all the image that is there."""
    project.write(files)
    given = [word for image in images for word in ("--build-context", f"{image}=docker-image://{BASE}")]
    project.build(dockerfile.removeprefix("\n"), *given)
    return project.run()


PYTHON = r"""
# syntax=docker/dockerfile:1.7
ARG PYTHON_VERSION=3.12
FROM python:${PYTHON_VERSION}-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    # the log comes at once
    PYTHONUNBUFFERED=1 \

    PATH=/usr/local/bin:$PATH

WORKDIR /app
ARG UID=10001
RUN echo "app:x:${UID}:${UID}::/nonexistent:/sbin/nologin" >>/etc/passwd \
 && echo "app:x:${UID}:" >>/etc/group
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=bind,source=requirements.txt,target=requirements.txt \
    cat requirements.txt >/installed && touch /root/.cache/pip/wheel
COPY --chmod=+x entrypoint.sh /usr/local/bin/
USER app
COPY --chown=app:app . .
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --retries=3 \
  CMD wget -qO- http://localhost:8000/health || exit 1
ENTRYPOINT ["entrypoint.sh"]
CMD ["sh", "-c", "cat /installed; id -u; find . -type f | sort | xargs stat -c '%U %n'; ls requirements.txt"]
"""


def test_an_application_in_python(project: Project) -> None:
    files = {
        "requirements.txt": "flask\n",
        "app/main.py": "",
        "app/__pycache__/main.pyc": "",
        "entrypoint.sh": '#!/bin/sh\nexec "$@"\n',
        ".dockerignore": "**/__pycache__\n*.sh\n!entrypoint.sh\nDockerfile\n.dockerignore\n",
    }
    told = ["flask", "10001", "app ./app/main.py", "app ./entrypoint.sh", "app ./requirements.txt", "requirements.txt"]
    assert built(project, files, PYTHON, "python:3.12-slim").splitlines() == told


GO = r"""
# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.22-alpine AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
COPY go.mod go.sum* ./
RUN --mount=type=cache,target=/go/pkg/mod/ touch /go/pkg/mod/x && ls
RUN --mount=type=cache,target=/go/pkg/mod/ \
    --mount=type=bind,target=.,rw \
    ls /go/pkg/mod/x cmd/app/main.go && touch generated.go && \
    printf '#!/bin/sh\necho %s/%s; id -u; ls /\n' $TARGETOS $TARGETARCH >/bin/server && chmod 755 /bin/server

FROM build AS test
RUN --mount=type=bind,target=. false

FROM scratch AS certs
COPY --from=build /etc/passwd /etc/

FROM runtime AS final
COPY --link --from=certs / /certs/
COPY --link --from=build --chown=65532:65532 /bin/server /server
USER 65532:65532
ENTRYPOINT [ "/server" ]
"""


def test_a_server_of_several_stages(project: Project) -> None:
    files = {"go.mod": "module x\n", "cmd/app/main.go": "package main\n"}
    told = built(project, files, GO, "golang:1.22-alpine", "runtime").splitlines()
    assert told[:2] == ["linux/amd64", "65532"]
    assert {"certs", "server"} <= set(told[2:])


NODE = r"""
FROM node:20-alpine AS base

FROM base AS deps
WORKDIR /app
COPY package.json yarn.lock* package-lock.json* pnpm-lock.yaml* ./
RUN \
  if [ -f yarn.lock ]; then echo yarn; \
  elif [ -f package-lock.json ]; then mkdir node_modules && echo npm >node_modules/by; \
  # nothing says which versions
  else echo "no lock file" && exit 1; \
  fi

FROM base AS builder
WORKDIR /app
COPY --from=deps /app/node_modules ./node_modules
COPY . .
RUN mkdir -p .next/static && cp node_modules/by .next/static/

FROM base AS runner
WORKDIR /app
ENV NODE_ENV production
RUN echo "nodejs:x:1001:" >>/etc/group && echo "nextjs:x:1001:1001::/app:/bin/sh" >>/etc/passwd
RUN mkdir .next && chown nextjs:nodejs .next
COPY --from=builder --chown=nextjs:nodejs /app/.next/static ./.next/static
USER nextjs
ENV PORT 3000
CMD HOSTNAME="0.0.0.0" sh -c 'cat .next/static/by; touch .next/mine && echo $NODE_ENV $PORT $HOSTNAME; touch mine || ls -A'
"""


def test_a_site_with_an_optional_lock_file(project: Project) -> None:
    files = {
        "package.json": "{}",
        "package-lock.json": "{}",
        "src/index.js": "",
        ".dockerignore": "node_modules\n.next\n",
    }
    assert built(project, files, NODE, "node:20-alpine").splitlines() == ["npm", "production 3000 0.0.0.0", ".next"]


NGINX = """FROM nginx:alpine
LABEL maintainer="A B <a@example.com>" \\
      org.opencontainers.image.title="x y"
RUN mkdir -p /var/log/nginx /etc/nginx \\
 && ln -sf /dev/stdout /var/log/nginx/access.log \\
 && ln -sf /dev/stderr /var/log/nginx/error.log
COPY nginx.conf /etc/nginx/nginx.conf
COPY html/ /usr/share/nginx/html/
COPY conf.d* LICENSE* html/index.html /etc/nginx/conf.d/
VOLUME ["/var/cache"]
STOPSIGNAL SIGQUIT
EXPOSE 80 443/tcp
CMD echo served >/var/log/nginx/access.log; cat /usr/share/nginx/html/index.html; ls /etc/nginx/conf.d
"""


def test_a_web_server_written_on_windows(project: Project) -> None:
    files = {"nginx.conf": "", "html/index.html": "hi\n"}
    assert built(project, files, NGINX.replace("\n", "\r\n"), "nginx:alpine").split() == ["served", "hi", "index.html"]
    config = project.daemon.inspect("app:1")["config"]
    assert (config["exposed_ports"], config["stop_signal"]) == (["80/tcp", "443/tcp"], "SIGQUIT")


ARGUMENTS = r"""
ARG REGISTRY=registry.example/test IMAGE=busybox TAG
ARG VARIANT=prod
FROM ${REGISTRY}/${IMAGE}:${TAG:-1} AS base-dev
ENV MODE=dev
FROM $REGISTRY/$IMAGE:${TAG:-1} AS base-prod
ENV MODE=prod
FROM base-${VARIANT} AS final
SHELL ["/bin/sh", "-euo", "pipefail", "-c"]
ARG VARIANT
ARG A=1 B=${A}2 OWNER=7:8
ENV A_B=$A-$B C="a\"b" D=\$A E='$A'
RUN <<EOF
  for i in 1 2; do
    echo "$MODE $VARIANT $A_B $i" >>/out
  done
EOF
WORKDIR ${MODE:+/srv}/$MODE
COPY --chown=${OWNER} --chmod=640 f ${MODE}.txt
COPY <<-"EOT" <<two.txt /here/
	not $MODE
	EOT
$MODE, but not \$MODE
two.txt
CMD ["sh", "-c", "cat /out; pwd; stat -c '%u:%g %a %n' *; cat /here/EOT /here/two.txt; echo \"$C $D $E\""]
"""


def test_arguments_everywhere(project: Project) -> None:
    assert built(project, {"f": "1"}, ARGUMENTS).splitlines() == [
        *("prod prod 1-12 1", "prod prod 1-12 2", "/srv/prod", "7:8 640 prod.txt"),
        *("not $MODE", "prod, but not $MODE", 'a"b $A $A'),
    ]
