"""Compiling and stepping the physics of a new project with each integrator of MJX."""

import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
from mujoco import mjx

ENVIRONMENTS, STEPS, SUBSTEPS = 16, 200, 4
MODEL = Path(__file__).parents[1] / "template/src/{{package_name}}/model.xml"


def main() -> None:
    text = MODEL.read_text()
    print("| integrator | disabled | CPU seconds to compile | steps per second |")
    print("| --- | --- | ---: | ---: |")
    for integrator in ("Euler", "implicitfast", "RK4"):
        for disabled in ("contact", "contact constraint"):
            flags = " ".join(f'{name}="disable"' for name in disabled.split())
            xml = re.sub("<flag .*?/>", f"<flag {flags}/>", text)
            xml = re.sub('integrator="\\w+"', f'integrator="{integrator}"', xml)
            print(f"| {integrator} | {disabled} | {measured(xml)} |", flush=True)


def measured(xml: str) -> str:
    model = mjx.put_model(mujoco.MjModel.from_xml_string(xml))
    start = mjx.make_data(model)

    def episode(action: jax.Array) -> jax.Array:
        def step(data: mjx.Data, action: jax.Array) -> mjx.Data:
            data = data.replace(ctrl=action)
            return jax.lax.fori_loop(0, SUBSTEPS, lambda _, d: mjx.step(model, d), data)

        data = jax.vmap(lambda _: start)(jnp.arange(ENVIRONMENTS))
        rollout = jax.lax.scan(lambda d, _: (jax.vmap(step)(d, action), None), data, length=STEPS)
        return rollout[0].qpos

    action = jnp.ones((ENVIRONMENTS, 2))
    began = time.process_time()
    program = jax.jit(episode).lower(action).compile()
    compiled = time.process_time() - began
    program(action).block_until_ready()
    began = time.perf_counter()
    program(action).block_until_ready()
    seconds = time.perf_counter() - began
    return f"{compiled:.1f} | {ENVIRONMENTS * STEPS / seconds:,.0f}"


if __name__ == "__main__":
    main()
