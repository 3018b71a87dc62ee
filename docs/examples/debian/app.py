"""The application: says who answers."""

from bottle import route, run


@route("/")
def hello() -> str:
    return "hello from Python behind nginx\n"


run(host="127.0.0.1", port=8000, quiet=True)
