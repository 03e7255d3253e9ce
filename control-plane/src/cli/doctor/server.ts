// What doctor asks the control plane: does it answer, is it ready, does a host do its work. An unreachable server is a finding,
// not an error: the checks of this machine are still worth reading.
import type { Client } from "../client.ts";
import type { Finding } from "../commands/doctor.ts";
import { CliFailure } from "../failure.ts";
import type { HostJson, Page } from "../shapes.ts";

type Ready = { readonly checks?: Readonly<Record<string, unknown>> | readonly unknown[] };

export const serverChecks = async (client: Client): Promise<Finding[]> => {
  const started = performance.now();
  try {
    await client.get("/healthz");
  } catch (error) {
    const fix = error instanceof CliFailure ? error.next : "";
    return [{ check: "server", verdict: "failed", value: messageOf(error), fix: fix || "look at its log" }];
  }
  const ms = Math.round(performance.now() - started);
  return [
    { check: "server", verdict: "ok", value: `${client.server} answers in ${ms} ms`, fix: "" },
    await readyCheck(client),
    await hostCheck(client),
  ];
};

const readyCheck = async (client: Client): Promise<Finding> => {
  try {
    const { checks = {} } = await client.get<Ready>("/readyz");
    return { check: "ready", verdict: "ok", value: `yes (${Object.keys(checks).length} checks)`, fix: "" };
  } catch (error) {
    return {
      check: "ready",
      verdict: "failed",
      value: messageOf(error),
      fix: `look at ${client.server}/readyz and at the log of the control plane`,
    };
  }
};

const hostCheck = async (client: Client): Promise<Finding> => {
  try {
    const { items } = await client.get<Page<HostJson>>("/api/v1/hosts");
    const online = items.filter((host) => host.presence === "online");
    const value = `${online.length} of ${items.length} online`;
    if (online.length > 0) return { check: "hosts", verdict: "ok", value, fix: "" };
    const fix =
      items.length === 0 ? "add one with the line of: renderplane host enroll-command" : "start the agent of a host";
    return { check: "hosts", verdict: "failed", value, fix };
  } catch (error) {
    return { check: "hosts", verdict: "failed", value: messageOf(error), fix: "" };
  }
};

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
