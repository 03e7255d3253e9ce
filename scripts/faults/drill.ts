// The work of the fault suite: pipelines of stages that take their time and make nothing, and the program that they run, which
// notes every start. So "started twice" is counted by the process itself and not by those who are under test.
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

export type Drill = {
  /** For every control plane and every agent of the fleet. */
  readonly env: NodeJS.ProcessEnv;
  /** Folders of attempts, one entry a start of a program. */
  starts(): Promise<string[]>;
};

type Shape = {
  readonly seconds: number;
  readonly exclusive?: boolean;
  readonly retries?: number;
  /** Stands in the offer; the program looks for it. */
  readonly fate?: "poison" | "hungry";
};

/** Named after what they do: drill-6 works six seconds, drill-exclusive-6 must never run twice at once. */
const pipelines: { readonly [name: string]: Shape } = {
  "drill-0": { seconds: 0 },
  "drill-1": { seconds: 1 },
  "drill-3": { seconds: 3 },
  "drill-6": { seconds: 6 },
  "drill-12": { seconds: 12 },
  "drill-90": { seconds: 90 },
  "drill-exclusive-6": { seconds: 6, exclusive: true },
  "drill-exclusive-90": { seconds: 90, exclusive: true },
  "drill-poison": { seconds: 1, retries: 2, fate: "poison" },
  "drill-hungry": { seconds: 1, retries: 1, fate: "hungry" },
};

export const layOutDrill = async (dir: string): Promise<Drill> => {
  const folder = join(dir, "pipelines");
  const log = join(dir, "starts");
  const program = join(dir, "drill-ffmpeg");
  await mkdir(folder, { recursive: true });
  await writeFile(log, "");
  for (const [name, shape] of Object.entries(pipelines))
    await writeFile(join(folder, `${name}.yaml`), pipelineOf(name, shape));
  await writeFile(program, programText(log));
  await chmod(program, 0o755);
  return {
    env: {
      RENDERPLANE_PIPELINES_DIR: folder,
      RENDERPLANE_MAX_RUNNING_JOBS: "1000",
      RENDERPLANE_QUEUE_MAX_DEPTH: "10000",
    },
    starts: async () => (await readFile(log, "utf8")).split("\n").filter((line) => line !== ""),
  };
};

/** What an agent of the drill gets as FFmpeg. */
export const drillProgram = (dir: string): string => join(dir, "drill-ffmpeg");

const pipelineOf = (name: string, { seconds, exclusive = false, retries = 3, fate }: Shape): string => {
  const params = [...(seconds === 0 ? [] : [`seconds: ${seconds}`]), ...(fate === undefined ? [] : [`fate: ${fate}`])];
  const stage = (own: string, params: string, needs: string) => `  - name: ${own}
    kind: noop
    needs: [${needs}]
    params: ${params}
    timeout: 300s
    retries: ${retries}
    backoff: 200ms
    exclusive: ${exclusive}
    estimated_cost: 0.01
    resources: { cores: 0.1, memory: 16MiB, scratch: 1MiB }
`;
  return `name: ${name}
version: 1
title: ${name}
estimate: { simple: 0.02, complex: 0.02, premium: 0.02 }
target: { seconds: 600, cost: 2.5 }
request: { type: object }
stages:
${stage("work", `{ ${params.join(", ")} }`, "")}${stage("after", "{}", "work")}`;
};

/** A probe of the encoder at the agent's start has no attempt and is not noted. */
const programText = (log: string): string => `#!/bin/sh
if [ -n "$RENDERPLANE_ATTEMPT" ]; then
  echo "$RENDERPLANE_ATTEMPT" >>${log}
  if grep -qa poison "$RENDERPLANE_ATTEMPT"/spec* 2>/dev/null; then kill -SEGV $$; fi
  if grep -qa hungry "$RENDERPLANE_ATTEMPT"/spec* 2>/dev/null; then ulimit -v 60000; fi
fi
exec ffmpeg "$@"
`;
