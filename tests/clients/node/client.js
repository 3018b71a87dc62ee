// Runs a container through moorage.v1, or a pod through CRI, with the .proto files read as they are, and prints what it saw as JSON.
//
//   node client.js container|pod TARGET IMAGE PROTOS

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

import { runContainer } from "./container.js";
import { runPod } from "./pod.js";

const KINDS = {
  container: { files: ["moorage/v1/image.proto", "moorage/v1/runtime.proto"], namespace: ["moorage", "v1"], run: runContainer },
  pod: { files: ["moorage/cri/v1/api.proto"], namespace: ["runtime", "v1"], run: runPod },
};
const LOADING = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };

const [what, target, image, protos] = process.argv.slice(2);
if (!Object.hasOwn(KINDS, what) || !protos) {
  console.error("usage: node client.js container|pod TARGET IMAGE PROTOS");
  process.exit(2);
}
const { files, namespace, run } = KINDS[what];
const loaded = grpc.loadPackageDefinition(loader.loadSync(files, { ...LOADING, includeDirs: [protos] }));
const services = namespace.reduce((scope, name) => scope[name], loaded);
const clients = ["RuntimeService", "ImageService"].map((name) => new services[name](target, grpc.credentials.createInsecure()));
try {
  console.log(JSON.stringify(await run(...clients, image)));
} catch (error) {
  console.error("client:", error);
  process.exitCode = 1;
} finally {
  for (const client of clients) client.close();
}
