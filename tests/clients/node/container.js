import { call, codeOf, options } from "./calls.js";

const SCRIPT = 'read line; echo "got $line"; echo complaint >&2; exit 7';

// Pulls the image, makes a container, starts it by attaching, talks to it, and sees it to its end.
export async function runContainer(runtime, images, image) {
  const seen = { image_id: await pull(images, image) };
  const config = { image, command: ["sh", "-c", SCRIPT], stdin_open: true, stdin_once: true };
  const { id } = await call(runtime, "CreateContainer", { config });
  Object.assign(seen, await attach(runtime, id));
  const { exit_code, reason } = await call(runtime, "WaitContainer", { id });
  Object.assign(seen, { exit_code, reason }, await logs(runtime, id));
  await call(runtime, "RemoveContainer", { id });
  seen.gone = await codeOf(call(runtime, "GetContainer", { id }));
  return seen;
}

async function pull(images, image) {
  let id;
  for await (const step of images.PullImage({ reference: image }, options())) id = step.image?.id;
  return id;
}

async function attach(runtime, id) {
  const stream = runtime.Attach(options());
  stream.write({ open: { id, start: true, stdin: true, stdout: true, stderr: true } });
  stream.write({ stdin: Buffer.from("a line\n") });
  stream.end();
  const seen = { stdout: "", stderr: "" };
  for await (const answer of stream) {
    if (answer.message === "exited") seen.attached_exit = answer.exited.exit_code;
    else if (answer.message !== "started") seen[answer.message] += answer[answer.message].toString();
  }
  return seen;
}

async function logs(runtime, id) {
  const seen = { logged_stdout: "", logged_stderr: "" };
  for await (const { entries } of runtime.GetLogs({ id }, options())) {
    for (const { stream, data } of entries) {
      seen[stream === "LOG_STREAM_STDERR" ? "logged_stderr" : "logged_stdout"] += data.toString();
    }
  }
  return seen;
}
