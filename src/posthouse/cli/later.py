"""Commands of the contract that are not built yet: they say so in one sentence and end with 69."""

import click

UNAVAILABLE = 69


def not_yet(name: str, hint: str = "") -> click.Command:
    """A command that takes whatever words it is given."""

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True},
        help="Not yet available." + (f" {hint}" if hint else ""),
        epilog=f"Example:  posthouse {name} --help",
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def command(context: click.Context, words: tuple[str, ...]) -> int:
        path = context.command_path
        click.echo(f"{path} is not yet available." + (f" {hint}" if hint else ""), err=True)
        return UNAVAILABLE

    return command


doctor = not_yet("doctor", "posthouse status tells what needs a person.")
received = not_yet("received")
import_ = not_yet("import")
backup = not_yet("backup", "Until then stop the gateway and copy its data directory.")
restore = not_yet("restore")
bundle = not_yet("bundle")
destination = not_yet("destination")
webhook = not_yet("webhook")
