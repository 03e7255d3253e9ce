// Pipelines that only figures need, written into the folder of a bed. One stage that does nothing: what is left is the system.
// It asks for so little that one host holds as many as a host may hold.

const oneStage = (name: string, title: string, more = "") => `name: ${name}
version: 1
title: ${title}
estimate: { simple: 0.001, complex: 0.001, premium: 0.001 }
target: { seconds: 600, cost: 0.01 }
uploads: { min: 0, max: 0, media: [] }
request: { type: object, additionalProperties: false, properties: {} }
stages:
  - name: noop
    kind: noop
    timeout: 600s
    retries: 3
    estimated_cost: 0.001
    resources: { cores: 0.01, memory: 1MiB, scratch: 1MiB }
${more}`;

export const benchPipelines: Readonly<Record<string, string>> = {
  "bench-noop": oneStage("bench-noop", "One stage that does nothing"),
  // The encoder crash of the failover benchmark: the shortest pause that a pipeline would choose.
  "bench-retry": oneStage("bench-retry", "One stage that is tried again", "    backoff: 1s\n"),
};
