from cnn_cli.cli import run_program

if __name__ == "__main__":
    run_program()
