// Hosts and needs for tests of placement. Only tests and benchmarks import this.
import type { Candidate, Need } from "./placement.ts";
import type { AllocationRecord, HostRow, StageSpec } from "./records.ts";

const gib = 1024 ** 3;

export const testGpu = (uuid: string, change: Partial<HostRow["inventory"]["gpus"][number]> = {}) => ({
  uuid,
  name: "G",
  memoryBytes: 8 * gib,
  driverVersion: "1",
  workingEncoders: ["h264_nvenc"],
  ...change,
});

export const testHost = (
  name: string,
  inventory: Partial<HostRow["inventory"]> = {},
  change: Partial<HostRow> = {},
): Candidate & { readonly held: AllocationRecord[] } => ({
  held: [],
  host: {
    id: `h_${name}`,
    name,
    intent: "open",
    intentReason: "",
    drainUntil: null,
    pool: "default",
    silentMs: 0,
    grade: "good",
    instanceId: "",
    agentVersion: "1",
    epoch: 1n,
    replica: "main",
    health: {},
    lastSeenAt: new Date(0),
    createdAt: new Date(0),
    inventory: {
      hostname: name,
      os: "",
      arch: "",
      cpuModel: "",
      cores: 4,
      memoryBytes: 8 * gib,
      scratchBytes: 100 * gib,
      gpus: [],
      ffmpegVersion: "5.1",
      workingEncoders: [],
      stageKinds: ["render", "script"],
      providers: [],
      ...inventory,
    },
    ...change,
  },
});

export const testNeed = (
  resources: Partial<StageSpec["resources"]> = {},
  change: Partial<Need> = {},
  spec: Partial<StageSpec> = {},
): Need => ({
  kind: "render",
  avoid: [],
  spec: {
    needs: [],
    uploads: false,
    params: {},
    timeoutMs: 60_000,
    retries: 0,
    backoffMs: 1,
    providers: [],
    resources: { cores: 1, memoryBytes: gib, scratchBytes: gib, gpu: "none", gpuMemoryBytes: 0, ...resources },
    ...spec,
  },
  ...change,
});
