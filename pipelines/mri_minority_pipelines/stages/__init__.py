"""One module per stage, each a rerunnable run(config, inputs, out)."""
