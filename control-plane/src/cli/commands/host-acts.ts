// renderplane host cordon, drain, revoke and the rest: what people do with hosts. Each says who and why, so that the event log can.
// What is allowed when is the server's to say. Waiting for a drain polls: a lost connection must not look like a finished drain.
import { hostname, userInfo } from "node:os";
import { setTimeout as pause } from "node:timers/promises";
import { parseDurationMs } from "@renderplane/proto/kernel/units.ts";
import { CliFailure, type ExitCode, exitCodes } from "../failure.ts";
import { ago, table } from "../output.ts";
import type { HostDetailJson } from "../shapes.ts";
import type { Session } from "./session.ts";

/** How often a drain is looked at while it is waited for. */
const pollMs = 1_000;

export type ActOptions = { readonly reason?: string | undefined };
export type SimpleAct = "cordon" | "uncordon" | "maintenance" | "quarantine" | "release";

export const actOnHost = async (session: Session, act: SimpleAct, name: string, o: ActOptions): Promise<ExitCode> =>
  tell(session, await post(session, name, act, asked(session, o)));

export const drainHost = async (
  session: Session,
  name: string,
  o: ActOptions & { within?: string; giveBack?: true; wait?: true; timeout?: string },
): Promise<ExitCode> => {
  const within = o.within === undefined ? undefined : Math.round(duration("--within", o.within) / 1000);
  const timeoutMs = o.timeout === undefined ? undefined : duration("--timeout", o.timeout);
  const body = {
    ...asked(session, o),
    ...(within !== undefined || o.giveBack
      ? { policy: "give_back", within_seconds: within ?? 0 }
      : { policy: "finish" }),
  };
  const host = await post(session, name, "drain", body);
  return o.wait ? waitForDrain(session, host, timeoutMs) : tell(session, host);
};

export const revokeHost = async (
  session: Session,
  name: string,
  o: ActOptions & { certificate?: string },
): Promise<ExitCode> => {
  const body = { ...asked(session, o), ...(o.certificate === undefined ? {} : { serial: o.certificate }) };
  return tell(session, await post(session, name, "revoke", body));
};

export const moveHost = async (session: Session, name: string, pool: string, o: ActOptions): Promise<ExitCode> =>
  tell(session, await post(session, name, "pool", { ...asked(session, o), pool }));

export const removeHost = async (session: Session, name: string, o: ActOptions): Promise<ExitCode> => {
  await session.client.delete(`${pathOf(name)}?${new URLSearchParams(asked(session, o))}`);
  if (!session.output.json({ name, removed: true })) session.output.result(`${name} is removed; its name is free.`);
  return exitCodes.ok;
};

export const openValve = async (session: Session, pool: string, o: ActOptions): Promise<ExitCode> => {
  const path = `/api/v1/pools/${encodeURIComponent(pool)}/open-valve`;
  const answer = await session.client.post<{ opened: boolean }>(path, asked(session, o));
  if (!session.output.json(answer))
    session.output.result(
      answer.opened
        ? `The valve of pool ${pool} is open: work of its silent hosts is given away.`
        : `The valve of pool ${pool} was open already.`,
    );
  return exitCodes.ok;
};

export const viewHost = async (session: Session, name: string): Promise<ExitCode> => {
  const host = await session.client.get<HostDetailJson>(pathOf(name));
  const { output } = session;
  if (output.json(host)) return exitCodes.ok;
  const now = new Date();
  const facts: readonly (readonly [string, string])[] = [
    ["host", `${host.name} (${host.id})`],
    ["presence", `${host.presence}, heard ${ago(host.last_seen_at, now)}`],
    ["intent", host.reason === "" ? host.intent : `${host.intent}: ${host.reason}`],
    ...(host.drain_until === null ? [] : [["gives back", host.drain_until] as const]),
    ["grade", host.grade],
    ["pool", host.pool],
    ["tags", host.tags.length === 0 ? "none" : host.tags.join(", ")],
    ["agent", host.agent_version],
    ["ffmpeg", host.ffmpeg_version],
    ["running", host.attempts.map((attempt) => `${attempt.stage} of ${attempt.job_id}`).join(", ") || "nothing"],
  ];
  const width = Math.max(...facts.map(([word]) => word.length));
  for (const [word, text] of facts) output.result(`${word.padEnd(width)}  ${text}`);
  output.result("");
  output.result(
    table(
      ["epoch", "opened", "closed", "instance", "replica"],
      host.sessions.map((s) => [`${s.epoch}`, s.opened_at, s.closed_at ?? "open", s.instance_id, s.replica]),
    ),
  );
  output.result("");
  output.result(
    table(
      ["certificate", "expires", "state"],
      host.certificates.map((c) => [
        c.serial,
        c.expires_at,
        c.revoked_at ? `revoked ${c.revoked_at}` : c.superseded_at ? `replaced ${c.superseded_at}` : "in use",
      ]),
    ),
  );
  return exitCodes.ok;
};

const waitForDrain = async (
  session: Session,
  host: HostDetailJson,
  timeoutMs: number | undefined,
): Promise<ExitCode> => {
  const { output } = session;
  const began = performance.now();
  let now = host;
  let shown = -1;
  while (now.attempts.length > 0) {
    if (timeoutMs !== undefined && performance.now() - began > timeoutMs)
      throw new CliFailure(exitCodes.timedOut, `${now.name} still holds ${now.attempts.length} attempts`, {
        next: "The drain goes on; give back what runs with: renderplane host drain NAME --give-back",
      });
    if (now.intent !== "draining")
      throw new CliFailure(exitCodes.conflict, `${now.name} is ${now.intent} by now; somebody ended the drain`);
    if (now.attempts.length !== shown) output.note(`${now.name} still holds ${now.attempts.length} attempts.`);
    shown = now.attempts.length;
    await pause(pollMs, undefined, { signal: session.signal });
    now = await session.client.get<HostDetailJson>(pathOf(host.id));
  }
  if (!output.json(now)) output.result(`${now.name} holds nothing any more.`);
  return exitCodes.ok;
};

const asked = ({ env }: Session, { reason }: ActOptions): { by: string; reason?: string } => ({
  by: `${env.USER ?? userInfo().username}@${hostname()}`,
  ...(reason === undefined ? {} : { reason }),
});

const post = (session: Session, name: string, act: string, body: object): Promise<HostDetailJson> =>
  session.client.post<HostDetailJson>(`${pathOf(name)}/${act}`, body);

const pathOf = (name: string): string => `/api/v1/hosts/${encodeURIComponent(name)}`;

const tell = ({ output }: Session, host: HostDetailJson): ExitCode => {
  if (output.json(host)) return exitCodes.ok;
  const held = host.attempts.length === 0 ? "holds nothing" : `holds ${host.attempts.length} attempts`;
  output.result(`${host.name} is ${host.intent}, ${host.presence}, ${held}.`);
  return exitCodes.ok;
};

const duration = (option: string, text: string): number => {
  try {
    return parseDurationMs(text);
  } catch (error) {
    throw new CliFailure(exitCodes.usage, `${option}: ${error instanceof Error ? error.message : String(error)}`);
  }
};
