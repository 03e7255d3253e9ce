// Simulated agents in processes of their own, seen from the process that ordered them: never in the process of a control plane,
// whose event loop is what is measured. Several processes share the hosts, so that the load side is not the limit.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createMeter, type Meter, type MeterJson } from "./meter.ts";
import type { AgentOrder, OfferSeen, Order, Report } from "./orders.ts";
import type { Scenario } from "./scenario.ts";

const program = fileURLToPath(new URL("./agents-process.ts", import.meta.url));
const stopLimitMs = 5_000;

export type Reading = {
  readonly meter: Meter;
  /** Agents with an open session, and attempts that run, at the last report. */
  readonly open: number;
  readonly running: number;
  readonly cpuMs: number;
  readonly rssBytes: number;
};

export type Agents = {
  readonly names: readonly string[];
  /** What all processes reported last, added up. */
  readonly read: () => Reading;
  readonly order: (order: Exclude<Order, { order: "open" | "stop" | "running" }>) => void;
  readonly running: () => Promise<ReadonlyMap<string, number>>;
  readonly onOffers: (listener: (offers: readonly OfferSeen[]) => void) => void;
  /** Waits until so many sessions are open; throws with what is there at the limit. */
  readonly untilOpen: (count: number, limitMs: number, signal?: AbortSignal) => Promise<void>;
  readonly stop: () => Promise<Reading>;
};

export const openAgents = async (options: {
  readonly agents: readonly AgentOrder[];
  readonly addresses: readonly string[];
  readonly scenario: Scenario;
  readonly processes?: number;
  readonly protocolMax?: number;
  readonly isTraced?: boolean;
}): Promise<Agents> => {
  const { agents, addresses, scenario } = options;
  const count = Math.max(1, Math.min(options.processes ?? 1, agents.length));
  const last = new Map<ChildProcess, Extract<Report, { report: "meter" }>>();
  const listeners: ((offers: readonly OfferSeen[]) => void)[] = [];
  const waitingForRunning: ((hosts: readonly (readonly [string, number])[]) => void)[] = [];
  const children = Array.from({ length: count }, () =>
    fork(program, [], { stdio: ["ignore", "inherit", "inherit", "ipc"], execArgv: process.execArgv }),
  );
  for (const child of children)
    child.on("message", (report: Report) => {
      if (report.report === "meter") last.set(child, report);
      else if (report.report === "offers") for (const listener of listeners) listener(report.offers);
      else waitingForRunning.shift()?.(report.hosts);
    });
  const send = (child: ChildProcess, order: Order) => {
    if (child.connected) child.send(order);
  };
  children.forEach((child, i) => {
    const { protocolMax, isTraced } = options;
    send(child, {
      order: "open",
      agents: agents.filter((_, at) => at % count === i),
      // Half of the fleet prefers each replica, as hosts that were enrolled at different ones do.
      addresses: i % 2 === 0 ? addresses : [...addresses].reverse(),
      scenario,
      ...(protocolMax === undefined ? {} : { protocolMax }),
      ...(isTraced === undefined ? {} : { isTraced }),
    });
  });

  const read = (): Reading => {
    const meter = createMeter();
    let [open, running, cpuMs, rssBytes] = [0, 0, 0, 0];
    for (const report of last.values()) {
      const { meter: counted }: { readonly meter: MeterJson } = report;
      meter.merge(counted);
      open += counted.open;
      running += counted.running;
      cpuMs += report.cpuMs;
      rssBytes += report.rssBytes;
    }
    return { meter, open, running, cpuMs, rssBytes };
  };
  const alive = () => children.filter((child) => child.exitCode === null && child.signalCode === null);
  let stopping: Promise<Reading> | undefined;

  return {
    names: agents.map((agent) => agent.name),
    read,
    order: (order) => children.forEach((child) => void send(child, order)),
    running: async () => {
      const answers = alive().map(
        (child) =>
          new Promise<readonly (readonly [string, number])[]>((resolve) => {
            waitingForRunning.push(resolve);
            send(child, { order: "running" });
          }),
      );
      return new Map((await Promise.all(answers)).flat());
    },
    onOffers: (listener) => void listeners.push(listener),
    untilOpen: async (wanted, limitMs, signal) => {
      const end = performance.now() + limitMs;
      while (read().open < wanted) {
        if (performance.now() > end || alive().length < count)
          throw new Error(`${read().open} of ${wanted} simulated hosts have a session after ${limitMs / 1000} s`);
        await wait(50, undefined, signal === undefined ? {} : { signal });
      }
    },
    stop: () => {
      stopping ??= (async () => {
        await Promise.all(
          alive().map(async (child) => {
            const gone = once(child, "exit");
            send(child, { order: "stop" });
            const late = setTimeout(() => child.kill("SIGKILL"), stopLimitMs);
            await gone;
            clearTimeout(late);
          }),
        );
        return read();
      })();
      return stopping;
    },
  };
};
