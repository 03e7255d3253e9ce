// What every command gets: where the server is, how to print, and how long it may take. Options that every command has
// (--server, --json, --no-color) are declared here once.
import type { Command } from "@commander-js/extra-typings";
import { type Client, createClient, defaultServer } from "../client.ts";
import { createOutput, type Output, type Streams } from "../output.ts";

export type Session = {
  readonly client: Client;
  readonly output: Output;
  readonly streams: Streams;
  readonly env: NodeJS.ProcessEnv;
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  /** Aborted by Ctrl-C; commands that wait say what goes on without them. */
  readonly signal: AbortSignal;
};

export type CommonOptions = {
  readonly server?: string | undefined;
  readonly json?: string | true | undefined;
  readonly color?: boolean | undefined;
};

/** Where the command line runs: the process, or a test. */
export type Surroundings = {
  readonly streams: Streams;
  readonly env: NodeJS.ProcessEnv;
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly signal: AbortSignal;
};

export const openSession = (around: Surroundings, options: CommonOptions): Session => ({
  ...around,
  client: createClient(options.server ?? around.env.RENDERPLANE_SERVER ?? defaultServer, around.signal),
  output: createOutput({
    streams: around.streams,
    env: around.env,
    json: options.json === true ? "" : options.json,
    noColor: options.color === false,
  }),
});

export const withCommonOptions = <
  A extends unknown[],
  O extends Record<string, unknown>,
  G extends Record<string, unknown>,
>(
  command: Command<A, O, G>,
) =>
  command
    .option("--server <url>", "address of the control plane (RENDERPLANE_SERVER)")
    .option("--json [fields]", "print JSON: all of it, or the fields named (a,b,c)")
    .option("--no-color", "no colour");
