// What the edge for agents costs by itself: CPU a heartbeat and a stage (offer, accept, start, end) over mutual TLS, against a bare
// stream of the same library that only decodes, notes and answers, in the same run. The server is a process of its own and its
// operations live in memory, so no database is measured; the hosts are another process.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { Bench } from "./bed.ts";
import type { EdgeFigures, EdgeOrder } from "./edge-server.ts";

const hostCounts = [200, 1000];
const steadyMs = 10_000;
const stages = 4000;

export const edge: Bench = {
  name: "edge",
  run: async (say, signal) => {
    const rows: string[] = [];
    for (const hosts of hostCounts) {
      const floor = await measure({ kind: "bare", hosts, steadyMs, stages: 0 }, signal);
      const ours = await measure({ kind: "edge", hosts, steadyMs, stages }, signal);
      const ratio = (ours.heartbeatMicros / floor.heartbeatMicros).toFixed(2);
      say(
        `${hosts} hosts: ${ours.heartbeatMicros.toFixed(0)} µs a heartbeat (bare ${floor.heartbeatMicros.toFixed(0)}), ${ours.stageMicros.toFixed(0)} µs a stage, all back in ${(ours.openMs / 1000).toFixed(1)} s`,
      );
      rows.push(
        [
          hosts,
          floor.heartbeatMicros.toFixed(0),
          ours.heartbeatMicros.toFixed(0),
          ratio,
          ours.stageMicros.toFixed(0),
          ours.openMs.toFixed(0),
          floor.rssMegabytes.toFixed(0),
          ours.rssMegabytes.toFixed(0),
        ].join(" | "),
      );
    }
    return [
      `Heartbeats for ${steadyMs / 1000} s at one a second a host, then ${stages} stages (offer, accept, start, CompleteMany) as fast as they go; CPU of the server process only.`,
      "",
      "| hosts | bare µs/heartbeat | edge µs/heartbeat | ratio | edge µs/stage | all open after ms | bare RSS MB | edge RSS MB |",
      "| --- | --- | --- | --- | --- | --- | --- | --- |",
      ...rows.map((row) => `| ${row} |`),
    ].join("\n");
  },
};

export const measure = async (order: EdgeOrder, signal: AbortSignal): Promise<EdgeFigures> => {
  const server = fork(new URL("edge-server.ts", import.meta.url), [JSON.stringify(order)], { signal });
  let hosts: ChildProcess | undefined;
  try {
    const [ready] = (await once(server, "message", { signal })) as [unknown];
    hosts = fork(new URL("edge-hosts.ts", import.meta.url), [JSON.stringify(order)], { signal });
    hosts.send(ready as object);
    hosts.on("message", (message) => server.send(message));
    const [figures] = (await once(server, "message", { signal })) as [EdgeFigures];
    return figures;
  } finally {
    hosts?.kill("SIGKILL");
    server.kill("SIGKILL");
  }
};
