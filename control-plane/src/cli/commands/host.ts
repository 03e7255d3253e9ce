// renderplane host list and enroll-command: which hosts there are and what is free on them, and the line that adds one more.
// What people do with a host is host-acts.ts.
import { parseDurationMs } from "@renderplane/proto/kernel/units.ts";
import { CliFailure, type ExitCode, exitCodes } from "../failure.ts";
import { ago, table } from "../output.ts";
import type { EnrollmentJson, HostListJson, ResourcesJson } from "../shapes.ts";
import type { Session } from "./session.ts";

export const listHosts = async (session: Session): Promise<ExitCode> => {
  const page = await session.client.get<HostListJson>("/api/v1/hosts");
  const { output } = session;
  if (output.json(page.items)) return exitCodes.ok;
  if (page.items.length === 0) {
    output.note("No hosts yet. Add one with the line that this prints: renderplane host enroll-command");
    return exitCodes.ok;
  }
  const now = new Date();
  const rows = page.items.map((host) => [
    host.name,
    host.presence,
    host.intent,
    host.grade,
    `${round(host.free.cores)}/${round(host.capacity.cores)}`,
    `${gibibytes(host.free)}/${gibibytes(host.capacity)} GiB`,
    `${host.capacity.gpus.length}`,
    `${host.attempts.length}`,
    host.ffmpeg_version,
    ago(host.last_seen_at, now),
  ]);
  const head = [
    "host",
    "presence",
    "intent",
    "grade",
    "cores free",
    "memory free",
    "gpus",
    "running",
    "ffmpeg",
    "seen",
  ];
  output.result(table(head, rows));
  for (const valve of page.closed_valves ?? [])
    output.note(
      `The work of pool ${valve.pool} is held back until ${valve.opens_at}: ${valve.reason}. If they are dead: renderplane host open-valve ${valve.pool}`,
    );
  return exitCodes.ok;
};

export const enrollCommand = async (session: Session, options: { ttl: string; uses: string }): Promise<ExitCode> => {
  const maxUses = Number(options.uses);
  if (!Number.isInteger(maxUses) || maxUses < 1)
    throw new CliFailure(exitCodes.usage, `--uses is a whole number from 1 on, got ${options.uses}`);
  const body = { ttl_seconds: Math.round(duration(options.ttl) / 1000), max_uses: maxUses };
  const enrollment = await session.client.post<EnrollmentJson>("/api/v1/enrollments", body);
  if (session.output.json(enrollment)) return exitCodes.ok;
  session.output.result(enrollment.command);
  session.output.note(
    `Run this on the new host before ${enrollment.expires_at}; it works ${maxUses === 1 ? "once" : `${maxUses} times`}.`,
  );
  return exitCodes.ok;
};

const duration = (text: string): number => {
  try {
    return parseDurationMs(text);
  } catch (error) {
    throw new CliFailure(exitCodes.usage, `--ttl: ${error instanceof Error ? error.message : String(error)}`);
  }
};

const round = (cores: number): string => `${Math.round(cores * 10) / 10}`;
const gibibytes = (resources: ResourcesJson): string => (resources.memory_bytes / 1024 ** 3).toFixed(1);
