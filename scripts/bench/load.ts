// A loaded system for a benchmark: a bed, hosts with certificates signed directly, agents in processes of their own. Stages of
// these hosts take a fixed time, so that what is measured is the system and not a draw.
import { type Agents, openAgents } from "../fleet/agents.ts";
import { type FleetBed, type FleetBedOptions, openFleetBed } from "../fleet/fleet-bed.ts";
import { type HostToBe, signHosts } from "../fleet/identities.ts";
import { defaultScenario, type HostProfile, hostName, inventoryOf, type Scenario } from "../fleet/scenario.ts";

/** Big enough that the number of attempts a host may hold is its only limit. */
const profile: HostProfile = {
  name: "bench",
  share: 1,
  cores: 64,
  memoryGib: 256,
  scratchGib: 1_000,
  gpus: 0,
  gpuMemoryGib: 0,
  dollarsPerHour: 0,
};
/** At the gate of 200 Hellos a second, with the pauses that those sent away are given. */
const openLimitMs = 240_000;

export type Load = {
  readonly bed: FleetBed;
  /** More hosts; resolves when all of them have a session. */
  readonly addHosts: (
    count: number,
    options?: {
      readonly stageMs?: number;
      readonly processes?: number;
      readonly isTraced?: boolean;
      readonly isAwaited?: boolean;
    },
  ) => Promise<Agents>;
  readonly scenario: (stageMs: number) => Scenario;
};

export const onLoad = async <T>(
  options: FleetBedOptions & { readonly signal: AbortSignal },
  act: (load: Load) => Promise<T>,
): Promise<T> => {
  const bed = await openFleetBed(options);
  const opened: Agents[] = [];
  let count = 0;
  const scenario = (stageMs: number): Scenario => ({
    ...defaultScenario,
    profiles: [profile],
    durations: { kind: "fixed", ms: stageMs },
  });
  try {
    return await act({
      bed,
      scenario,
      addHosts: async (wanted, { stageMs = 0, processes = 1, isTraced = false, isAwaited = true } = {}) => {
        const first = count;
        count += wanted;
        const hosts: HostToBe[] = Array.from({ length: wanted }, (_, i) => {
          const name = hostName(first + i, "bench");
          return { name, inventory: inventoryOf(profile, first + i, defaultScenario, name) };
        });
        const sessionAddress = bed.replicas[0]?.agentAddress ?? "";
        const identities = await signHosts(hosts, { sql: bed.sql, sessionAddress });
        const agents = await openAgents({
          agents: identities.map((identity, i) => ({
            index: first + i,
            name: hosts[i]?.name ?? "",
            identity,
            profile,
          })),
          addresses: bed.replicas.map((replica) => replica.agentAddress),
          scenario: scenario(stageMs),
          processes,
          isTraced,
        });
        opened.push(agents);
        if (isAwaited) await agents.untilOpen(wanted, openLimitMs, options.signal);
        return agents;
      },
    });
  } finally {
    for (const agents of opened) await agents.stop();
    await bed.stop();
  }
};
