// The one list of stage kinds that an agent can run. A kind is a file beside this one; whether a host has what a kind needs
// (a provider's key, a GPU) is told by the inventory and decided by placement, not here.
import type { StageKind } from "../work/contract.ts";
import { analyseStage } from "./analyse.ts";
import { cleanupStage } from "./cleanup.ts";
import { compressStage } from "./compress.ts";
import type { StageConfig } from "./fields.ts";
import { createMediaStage } from "./media.ts";
import { mergeStage } from "./merge.ts";
import { noopStage } from "./noop.ts";
import { packageStage } from "./package.ts";
import { prepareStage } from "./prepare.ts";
import { renderStage } from "./render.ts";
import { createScriptStage } from "./script.ts";
import { createSpeechStage } from "./speech.ts";
import { storeStage } from "./store.ts";
import { transcodeStage } from "./transcode.ts";
import { validateStage } from "./validate.ts";
import { validateLadderStage } from "./validate-ladder.ts";

export const stageKinds = (config: StageConfig): readonly StageKind[] => [
  createScriptStage(config),
  createSpeechStage(config),
  createMediaStage(config),
  renderStage,
  validateStage,
  packageStage,
  transcodeStage,
  validateLadderStage,
  analyseStage,
  prepareStage,
  mergeStage,
  compressStage,
  storeStage,
  cleanupStage,
  noopStage,
];
