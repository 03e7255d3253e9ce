// A process full of simulated agents, started by agents.ts: it does what it is ordered, reports once a second, makes hosts come
// and go as the scenario says, and ends with its parent.
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { createMeter } from "./meter.ts";
import type { OfferSeen, Order, Report } from "./orders.ts";
import { createRandom } from "./random.ts";
import { defaultScenario, inventoryOf, type Scenario } from "./scenario.ts";
import { createSimulatedAgent, type SimulatedAgent } from "./simulated-agent.ts";

const reportMs = 1_000;
/** How often the dice of coming and going are thrown. */
const churnMs = 250;
/** Traced offers go out in groups: a message each would cost more than what is measured. */
const traceMs = 20;

const meter = createMeter();
const agents = new Map<string, SimulatedAgent>();
/** One object that all agents of this process read, so that an order changes them all. */
const scenario: { -readonly [K in keyof Scenario]: Scenario[K] } = { ...defaultScenario };
let seen: OfferSeen[] = [];
let random = createRandom(scenario.seed, "churn");

const tell = (report: Report) => void process.send?.(report);
const list = (names: readonly string[]) => names.map((name) => agents.get(name)).filter((a) => a !== undefined);

const sendMeter = () => {
  let open = 0;
  let running = 0;
  for (const agent of agents.values()) {
    if (agent.isOpen()) open++;
    running += agent.running();
  }
  const { user, system } = process.cpuUsage();
  tell({
    report: "meter",
    meter: meter.toJson({ open, running }),
    cpuMs: (user + system) / 1000,
    rssBytes: process.memoryUsage.rss(),
  });
};

const away = new Map<SimulatedAgent, number>();
const churn = () => {
  const now = performance.now();
  for (const [agent, until] of away)
    if (now >= until) {
      away.delete(agent);
      agent.comeBack();
    }
  const { perHostHour, awayMs, silentShare } = scenario.churn;
  if (perHostHour <= 0) return;
  const chance = (perHostHour * churnMs) / 3_600_000;
  for (const agent of agents.values()) {
    if (!agent.isOpen() || random.next() >= chance) continue;
    if (random.next() < silentShare) {
      agent.vanish();
      away.set(agent, now + random.exponential(awayMs));
    } else agent.restart(random.next() < 0.5);
  }
};

const rhythms = [
  rhythm({ name: "report", periodMs: reportMs, turn: async () => sendMeter(), onError: report }),
  rhythm({ name: "churn", periodMs: churnMs, turn: async () => churn(), onError: report }),
  rhythm({
    name: "trace",
    periodMs: traceMs,
    turn: async () => {
      if (seen.length > 0) tell({ report: "offers", offers: seen });
      seen = [];
    },
    onError: report,
  }),
];

function report(error: unknown): void {
  console.error(error);
}

const obey = (order: Order) => {
  switch (order.order) {
    case "open": {
      Object.assign(scenario, order.scenario);
      random = createRandom(scenario.seed, "churn", order.agents[0]?.index ?? 0);
      const opened = order.agents.map(({ index, name, identity, profile }) =>
        createSimulatedAgent({
          name,
          identity,
          addresses: order.addresses,
          inventory: inventoryOf(profile, index, scenario, name),
          scenario,
          random: createRandom(scenario.seed, "agent", index),
          meter,
          ...(order.protocolMax === undefined ? {} : { protocolMax: order.protocolMax }),
          ...(order.isTraced ? { onOffer: (offer) => void seen.push({ ...offer, host: name }) } : {}),
        }),
      );
      for (const agent of opened) {
        agents.set(agent.name, agent);
        agent.start();
      }
      return;
    }
    case "vanish":
      return list(order.names).forEach((agent) => void agent.vanish());
    case "comeBack":
      return list(order.names).forEach((agent) => void agent.comeBack());
    case "restart":
      return list(order.names).forEach((agent) => void agent.restart(order.keepsJournal));
    case "behave":
      return void Object.assign(scenario, order.scenario);
    case "forgetTimings":
      meter.forgetTimings();
      return sendMeter();
    case "running": {
      const hosts = [...agents.values()].map((agent) => [agent.name, agent.running()] as const);
      return tell({ report: "running", hosts: hosts.filter(([, count]) => count > 0) });
    }
    case "stop":
      return end();
  }
};

let isEnding = false;
const end = () => {
  if (isEnding) return;
  isEnding = true;
  for (const agent of agents.values()) agent.stop();
  sendMeter();
  // Goodbyes get a moment to leave; then the process ends whatever is still open.
  setTimeout(() => process.exit(0), 300);
};

process.on("message", (order: Order) => obey(order));
process.on("disconnect", end);
// Ctrl-C reaches the whole group; the parent says when.
process.on("SIGINT", () => {});
for (const part of rhythms) await part.start();
