// Calls as promises.

import grpc from "@grpc/grpc-js";

const PATIENCE = 60_000;

export const options = () => ({ deadline: Date.now() + PATIENCE });

// One request, one answer.
export function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, options(), (error, answer) => {
      if (error) {
        error.message = `${method}: ${error.message}`;
        reject(error);
      } else {
        resolve(answer);
      }
    });
  });
}

// The name of the status of a call that should fail.
export async function codeOf(failing) {
  try {
    await failing;
  } catch (error) {
    return grpc.status[error.code];
  }
  return "no error";
}
