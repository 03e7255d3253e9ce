// docs/configuration.md from the settings of both processes: every variable, its default, what it is for.
// The default is what the schema answers when nothing is set, so the page cannot promise another one.
import type { Setting, Settings } from "@renderplane/proto/kernel/process/environment.ts";
import { settings as agent } from "../../agent/src/config.ts";
import { settings as controlPlane } from "../../control-plane/src/config.ts";

export const configurationPage =
  (): string => `<!-- Written by scripts/docs.ts from the settings in code; change those, then run: node scripts/docs.ts -->
# Configuration

Both processes read their settings from the environment, once, at start. Every variable can also be given as \`NAME_FILE\`, the
name of a file that holds the value. A name that starts with \`RENDERPLANE_\` and is not a setting is refused with the nearest
one. Secrets are never printed. Nothing needs to be set to try Renderplane: \`./scripts/quickstart\` sets what it needs.

## Control plane

${table(controlPlane)}

## Agent

Keys of outside services belong here: the control plane never sees them, it only learns what a host can do.

${table(agent)}

## Command line

| variable | default | meaning |
| --- | --- | --- |
| \`RENDERPLANE_SERVER\` | \`http://127.0.0.1:8000\` | The control plane that \`npx renderplane\` talks to. |
| \`NO_COLOR\`, \`FORCE_COLOR\`, \`CI\` |  | Colour and moving bars: never, always, never. |
| \`DEBUG\` |  | Shows where an unexpected fault of the command line came from. |
`;

const table = (settings: Settings): string =>
  [
    "| variable | default | meaning |",
    "| --- | --- | --- |",
    ...Object.values(settings).map(
      (s) => `| \`${s.env}\` | ${fallbackOf(s)} | ${s.help}${s.secret ? " (secret)" : ""} |`,
    ),
  ].join("\n");

const fallbackOf = (setting: Setting): string => {
  const parsed = setting.schema.safeParse(undefined);
  if (!parsed.success) return "(required)";
  return textOf(parsed.data);
};

const textOf = (value: unknown): string => {
  if (value === undefined || value === "" || (Array.isArray(value) && value.length === 0)) return "";
  // The only whole big numbers among the settings are amounts of money.
  if (typeof value === "bigint") return `\`${Number(value) / 1e6}\``;
  return `\`${typeof value === "string" ? value : JSON.stringify(value)}\``;
};
