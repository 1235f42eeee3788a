# The two commands on a CPU: docker build -t mindfcn . && docker run --rm mindfcn
FROM python:3.11-slim
# What OpenCV and MindSpore load.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libgomp1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /mindfcn
COPY . .
RUN pip install --no-cache-dir --editable '.[test]'
CMD ["bash", "-c", "bash run_train.sh && bash run_tests.sh"]
