// The program behind host-names.ts: asks systeminformation for the names of CPU and OS, writes them as JSON to stdout, and ends.
// The only file of the agent that knows the library; nothing may import it.
import { cpu, osInfo } from "systeminformation";

const [processor, system] = await Promise.all([cpu(), osInfo()]);
process.stdout.write(
  JSON.stringify({
    os: `${system.distro} ${system.release}`.trim(),
    cpuModel: `${processor.manufacturer} ${processor.brand}`.trim(),
  }),
);
