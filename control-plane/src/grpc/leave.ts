// Asks hosts to go to another replica, and waits for them: for a replica that stops, and for one that has more than its share. Only
// asks: the host opens its new stream first, and its newer epoch makes the old stream harmless. Hosts of protocol 1 know no such
// message; they come back when their stream ends. Only a replica that was taken for gone ends streams here, too.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { LiveSession, LiveSessions } from "./live-session.ts";

/** The first protocol that knows Move. */
const moveProtocol = 2;
const lookMs = 50;

export type Departure = {
  /** Asks every host that can be asked; each leaves after a random part of this. Answers how many were asked. */
  moveAll(withinMs: number): number;
  /** The same for a random part (0..1) of the sessions, rounded up. */
  shed(fraction: number): number;
  /**
   * The sessions of this replica were closed in the store: no host of them gets an offer before it says hello again. Asks those that
   * can be asked, then ends the streams of all that stayed: they found no other replica, or know no such message.
   */
  recall(withinMs: number): Promise<void>;
  /** Until every host that was asked has left, or the time is over. Answers how many are left. */
  untilLeft(limitMs: number): Promise<number>;
};

/** For the last of them to open its new stream. */
const recallMarginMs = 1000;
const forgotten = (): RenderplaneError =>
  new RenderplaneError(
    "unavailable",
    "this replica was taken for gone and its sessions were closed; the session may be resumed",
  );
/** A host that is shed leaves within this. */
const shedWithinMs = 2000;

export const createDeparture = (sessions: LiveSessions): Departure => {
  const ask = (session: LiveSession, withinMs: number) => {
    session.isLeaving = true;
    session.send({ $case: "move", value: { address: "", withinMs: Math.round(withinMs) } }, "verdict");
  };
  const askable = () =>
    [...sessions.byHost.values()].filter((session) => session.protocol >= moveProtocol && !session.isLeaving);
  const moveAll = (withinMs: number) => {
    const asked = askable();
    for (const session of asked) ask(session, withinMs);
    return asked.length;
  };
  const leavingCount = () => [...sessions.byHost.values()].filter((session) => session.isLeaving).length;
  return {
    moveAll,
    shed: (fraction) => {
      const stay = askable();
      const count = Math.min(stay.length, Math.ceil(sessions.byHost.size * Math.min(1, Math.max(0, fraction))));
      for (let n = 0; n < count; n++) {
        const [session] = stay.splice(Math.floor(Math.random() * stay.length), 1);
        if (session) ask(session, shedWithinMs);
      }
      return count;
    },
    recall: async (withinMs) => {
      const all = [...sessions.byHost.values()];
      moveAll(withinMs);
      const end = performance.now() + withinMs + recallMarginMs;
      const staying = () => all.filter((session) => sessions.byHost.get(session.hostId) === session);
      while (staying().some((session) => session.isLeaving) && performance.now() < end)
        await new Promise((resolve) => setTimeout(resolve, lookMs));
      for (const session of staying()) session.close(forgotten());
    },
    untilLeft: async (limitMs) => {
      const end = performance.now() + limitMs;
      while (leavingCount() > 0 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, lookMs));
      return leavingCount();
    },
  };
};
