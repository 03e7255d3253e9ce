// renderplane explain: why a job waits or what it does, with the reason of every host.
import { type ExitCode, exitCodes } from "../failure.ts";
import { table } from "../output.ts";
import type { ExplanationJson } from "../shapes.ts";
import type { Session } from "./session.ts";

export const explainJob = async (session: Session, id: string): Promise<ExitCode> => {
  const explanation = await session.client.get<ExplanationJson>(`/api/v1/jobs/${encodeURIComponent(id)}/explain`);
  const { output } = session;
  if (output.json(explanation)) return exitCodes.ok;
  output.result(output.paint("bold", explanation.summary));
  for (const stage of explanation.stages) {
    output.result(`${stage.stage}: ${stage.state}${stage.reason === "" ? "" : `, ${stage.reason}`}`);
    const gates = stage.gates ?? [];
    if (gates.length > 0)
      output.result(
        table(
          ["  limit", "verdict", "reason"],
          gates.map((g) => [`  ${g.rule}`, g.verdict, g.reason]),
        ),
      );
    if (stage.hosts.length === 0) continue;
    const rows = stage.hosts.map((host) => [`  ${host.host}`, host.verdict, host.reason]);
    output.result(table(["  host", "verdict", "reason"], rows));
  }
  return exitCodes.ok;
};
