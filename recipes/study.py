"""
The paper's whole scheme as a grid: base LM x GRFT data x LM loss x CRFT strategy x domain x seed, with a report.

    python recipes/study.py                                                  # tiny default, a laptop CPU
    python recipes/study.py --config recipes/llama-7b/study.yaml             # the paper's grid

Each cell is one `accelerate launch` of recipes/grft.py or recipes/crft.py. Finished cells are kept: started again, or
on several machines with a shared folder, a study runs only the missing ones. The report is OUTPUT_DIR/README.md.
"""

from pathlib import Path

from rm_toolkit.training.runtime import run_main


DEFAULT_CONFIG = Path(__file__).parent / "tiny" / "study.yaml"


@run_main
def main() -> None:
    import argparse
    import sys

    from rm_toolkit.study.grid import load_study
    from rm_toolkit.study.report import write_report
    from rm_toolkit.study.runner import StudyRunner

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(DEFAULT_CONFIG), help="the grid: a YAML file")
    parser.add_argument("--output_dir", help="instead of the one in the YAML")
    parser.add_argument(
        "--report_only", action="store_true", help="run nothing; write the report of the finished cells"
    )
    args = parser.parse_args()
    study = load_study(args.config)
    study.output_dir = args.output_dir or study.output_dir
    runner = StudyRunner(study)
    complete = args.report_only or runner.run()
    write_report(runner)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
