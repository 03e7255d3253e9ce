// The agent's one tie to the control plane: enrols once, keeps a session open for ever at one of its replicas, renews the
// certificate, and carries the supervisor's calls. It decides when and where to come back and nothing about work: attempts go on
// while the way is down, and the supervisor counts their leases. One connection is a line (line.ts); when a replica asks to be left,
// the next line is open before the old one is closed.
import { randomUUID } from "node:crypto";
import type {
  AgentServiceClient,
  Health,
  HeldAttempt,
  Move,
  Progress,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { ControlPlane, Supervisor } from "../work/contract.ts";
import { createAddressBook } from "./addresses.ts";
import { splitAddress } from "./client.ts";
import { placeOutputs } from "./complete.ts";
import { diagnose } from "./diagnose.ts";
import { createEndSender } from "./end-sender.ts";
import { enrol } from "./enrol.ts";
import { isPassing } from "./errors.ts";
import { type Identity, identityPath, readIdentity } from "./identity.ts";
import { type Line, openLine } from "./line.ts";
import type { Outgoing } from "./outgoing.ts";
import { createComeback, defaultPace, moveDelayMs, type Pace, pause, retryDelayMs } from "./pace.ts";
import { createRenewalOfIdentity } from "./renewal.ts";

export type LinkOptions = {
  /** State folder of the agent; the identity lies there. */
  readonly dir: string;
  readonly name: string;
  readonly agentVersion: string;
  /** host:port; needed until the host is enrolled. */
  readonly enrolAddress?: string;
  /** host:port, or several with commas; without it, what enrolment answered. */
  readonly sessionAddress?: string;
  readonly joinToken?: string;
  readonly inventory: () => Inventory;
  readonly health: () => Promise<Health>;
  readonly supervisor?: Supervisor;
  readonly pace?: Partial<Pace>;
  readonly log: Logger;
};

export type Link = Lifetime &
  ControlPlane & {
    /** Before start, when the supervisor was made after the link. */
    attach(supervisor: Supervisor): void;
    /** The host's id, undefined until it is enrolled. */
    hostId(): string | undefined;
    isOpen(): boolean;
  };

export const createLink = (options: LinkOptions): Link => {
  const { dir, log } = options;
  const pace: Pace = { ...defaultPace, ...options.pace };
  const instanceId = randomUUID();
  const stopped = new AbortController();
  /** The newest of each attempt, said again when a session opens: the control plane forgets live progress with the stream. */
  const newest = new Map<string, Progress>();
  let supervisor = options.supervisor;
  let identity: Identity | undefined;
  /** Of the newest line; the unary calls go over it, also while its stream is down. */
  let client: AgentServiceClient | undefined;
  let line: Line | undefined;
  let send: ((message: Outgoing, key?: string) => void) | undefined;
  let loop: Promise<void> | undefined;
  let lastReason = "";

  const sendProgress = (value: Progress) => send?.({ $case: "progress", value }, `progress:${value.attemptId}`);
  const configured = () =>
    (options.sessionAddress ?? known(identity).sessionAddress).split(",").map((one) => one.trim());
  const book = createAddressBook({ dir, configured, log });
  const ends = createEndSender(() => way());
  const renewal = createRenewalOfIdentity({
    dir,
    identity: () => known(identity),
    client: () => (send ? client : undefined),
    pauseMs: pace.renewalPauseMs,
    log,
    onRenewed: (renewed) => {
      identity = renewed;
      // The next stream is opened at once with the new certificate; calls under way end on the old channel.
      line?.close(renewedReason);
    },
  });

  /** The identity from disk, or a new one; waits for a control plane that is away, gives up when it was refused. */
  const identify = async (): Promise<Identity | undefined> => {
    const kept = await readIdentity(dir);
    if (kept) return kept;
    const { joinToken, enrolAddress } = options;
    if (!joinToken)
      throw new ConfigError(
        `RENDERPLANE_JOIN_TOKEN is not set and ${identityPath(dir)} is not there: this host is not enrolled. ` +
          "Ask the control plane for a join token and set RENDERPLANE_JOIN_TOKEN or RENDERPLANE_JOIN_TOKEN_FILE",
      );
    if (!enrolAddress)
      throw new ConfigError("RENDERPLANE_ENROL_ADDRESS is not set: it is the host:port where this host enrols");
    for (let failures = 1; !stopped.signal.aborted; failures++) {
      try {
        const request = { dir, name: options.name, address: enrolAddress, token: joinToken };
        const fresh = await enrol({ ...request, inventory: options.inventory() });
        log.info({ hostId: fresh.hostId }, "enrolled");
        return fresh;
      } catch (error) {
        if (!(error instanceof RenderplaneError) || !isPassing(error)) throw error;
        tell(error);
        await pause(retryDelayMs(error, failures, pace), stopped.signal);
      }
    }
    return undefined;
  };

  /** The same reason is told once, not at every try. */
  const tell = (error: RenderplaneError) => {
    const level = error.message === lastReason ? "debug" : isPassing(error) ? "warn" : "error";
    lastReason = error.message;
    log[level]({ code: error.code, reason: error.message }, "no session with the control plane; work goes on");
  };

  const open = (who: Identity, address: string): Line => {
    const opened: Line = openLine({
      address,
      identity: who,
      supervisor: attached(supervisor),
      instanceId,
      agentVersion: options.agentVersion,
      inventory: options.inventory,
      health: options.health,
      helloLimitMs: pace.helloLimitMs,
      stopped: stopped.signal,
      log,
      onOpen: (through, ack) => {
        carry(opened);
        send = through;
        lastReason = "";
        ends.onSession(ack.protocol);
        book.worked(address);
        book.remember(ack.addresses);
        forgetGone(newest, attached(supervisor).held());
        for (const value of newest.values()) sendProgress(value);
      },
      onEnd: (through) => {
        if (send === through) send = undefined;
      },
    });
    return opened;
  };
  /** Its channel is the one for calls from now on; those under way on the last one end there. */
  const carry = (next: Line) => {
    if (client === next.client) return;
    client?.close();
    client = next.client;
  };

  /** The line to go on with: a new one that is open, or the old one when no other replica takes us. */
  const follow = async (old: Line, move: Move): Promise<Line> => {
    const target = book.otherThan(old.address, move.address);
    if (target === undefined) {
      log.info({ wished: move.address }, "asked to go to another replica, but none is known");
      return old;
    }
    await pause(moveDelayMs(move.withinMs), AbortSignal.any([stopped.signal, old.over]));
    if (stopped.signal.aborted) return old;
    const next = open(known(identity), target);
    if (await next.opened) {
      log.info({ from: old.address, to: target }, "moved to another replica");
      old.close("moved to another replica");
      return next;
    }
    log.warn({ to: target }, "the other replica cannot be reached, staying");
    next.client.close();
    return old;
  };

  const stayConnected = async (): Promise<void> => {
    const comeback = createComeback(pace);
    while (!stopped.signal.aborted) {
      const who = known(identity);
      if (!line) {
        line = open(who, book.next());
        carry(line);
      }
      const event = await line.next();
      if ("move" in event) {
        line = await follow(line, event.move);
        continue;
      }
      const { address, identity: asWho } = line;
      line = undefined;
      if (stopped.signal.aborted || identity !== asWho) continue;
      const { end } = event;
      // Also after a session that was open: a replica that froze still takes connections, and dialling it again costs another time limit.
      if (end.error) book.failed(address);
      const isBlind = !end.wasOpen && end.error?.code === "unavailable" && end.error.retryAfterMs === undefined;
      const error = isBlind ? await diagnose(address, asWho, dir) : end.error;
      if (error) tell(error);
      await pause(comeback({ error, livedMs: end.livedMs, choices: book.count() }), stopped.signal);
    }
    await line?.ended;
  };

  const way = (): AgentServiceClient => {
    if (!client) throw new RenderplaneError("unavailable", "the agent has no way to the control plane yet");
    return client;
  };

  return {
    name: "link",
    attach: (next) => {
      supervisor = next;
    },
    hostId: () => identity?.hostId,
    isOpen: () => send !== undefined,
    start: async () => {
      if (loop || stopped.signal.aborted) return;
      attached(supervisor);
      identity = await identify();
      if (!identity) return;
      for (const address of configured()) splitAddress(address);
      loop = stayConnected();
      await renewal.start();
    },
    stop: async () => {
      stopped.abort(new Error("the agent stops"));
      await renewal.stop();
      await loop;
      client?.close();
      client = undefined;
    },
    // An answer without a stream is dropped: the next session brings the offer again.
    answerOffer: (value) => send?.({ $case: "offerAnswer", value }),
    sendProgress: (value) => {
      if (newest.size >= 2 * maxAttemptsPerHost) forgetGone(newest, supervisor?.held() ?? []);
      newest.set(value.attemptId, value);
      sendProgress(value);
    },
    complete: async (request) => ends.send(request),
    placeOutputs: async (request) => placeOutputs(way(), request),
  };
};

const forgetGone = (newest: Map<string, Progress>, held: readonly HeldAttempt[]): void => {
  const ids = new Set(held.map((attempt) => attempt.attemptId));
  for (const id of newest.keys()) if (!ids.has(id)) newest.delete(id);
};

const renewedReason = "the certificate was renewed";

const known = (identity: Identity | undefined): Identity => {
  if (!identity) throw new Error("the link has no identity before it has started");
  return identity;
};
const attached = (supervisor: Supervisor | undefined): Supervisor => {
  if (!supervisor) throw new Error("the link was started before attach() gave it a supervisor");
  return supervisor;
};
