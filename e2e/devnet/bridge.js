// The TVM and the transaction executor of @ton/sandbox (the validators' own C++, in WASM) behind JSON lines on stdin and
// stdout.  One question a line, one answer a line; ends when stdin ends.
//   {op: "config"}                                                -> {config}       the default chain configuration
//   {op: "tx", config, account, message, now, lt, seed}           -> the executor's answer
//   {op: "get", config, code, data, address, now, balance, seed, method, stack} -> the TVM's answer
'use strict';
const path = require('path');
const { createRequire } = require('module');
const packages = createRequire(path.join(process.argv[2], 'x.js'));
const { Executor } = packages('@ton/sandbox/dist/executor/Executor.js');
const { defaultConfig } = packages('@ton/sandbox/dist/config/defaultConfig.js');

const GET_GAS_LIMIT = '1000000';

function answer(executor, q) {
  if (q.op === 'config') return { config: defaultConfig };
  if (q.op === 'tx') {
    const params = { utime: q.now, lt: q.lt, rand_seed: q.seed, ignore_chksig: false, debug_enabled: false };
    const emulator = executor.getEmulatorPointer(q.config, 0);
    return JSON.parse(executor.extractString(executor.invoke('_emulate_with_emulator', [emulator, 0, q.account, q.message, JSON.stringify(params)])));
  }
  if (q.op === 'get') {
    const params = {
      code: q.code, data: q.data, verbosity: 0, libs: '', address: q.address, unixtime: q.now, balance: q.balance,
      rand_seed: q.seed, gas_limit: GET_GAS_LIMIT, method_id: q.method, debug_enabled: false,
    };
    return JSON.parse(executor.extractString(executor.invoke('_run_get_method', [JSON.stringify(params), q.stack, q.config])));
  }
  return { fail: true, message: `no operation ${q.op}` };
}

async function main() {
  const executor = await Executor.create();
  const lines = require('readline').createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    let out;
    try {
      out = answer(executor, JSON.parse(line));
    } catch (error) {
      out = { fail: true, message: String(error) };
    }
    process.stdout.write(JSON.stringify(out) + '\n');
  });
  lines.on('close', () => process.exit(0));
}

main();
